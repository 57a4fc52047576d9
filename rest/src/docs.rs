//! `/openapi.json` and `/docs`: the routes' description for programs, and as a page to
//! read. The page is one file, nothing is fetched, and there is no script.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::{Map, Value};

/// What the page may do: show itself.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

const STYLE: &str = "
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h1, h2, h3 { line-height: 1.2 }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere }
section { border-top: 1px solid #ccc; padding-top: 0.5rem; margin-top: 1.5rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: 0.2rem 0.8rem 0.2rem 0 }
th { font-weight: 600; border-bottom: 1px solid #ccc }
nav { columns: 2 }
nav a { display: block }
a { color: #0b57a4 }
@media (prefers-color-scheme: dark) {
  body { color: #e6e6e6; background: #161616 }
  section, th { border-color: #444 }
  a { color: #8ab8ea }
}
";

/// Both, made once.
#[derive(Clone)]
pub struct Pages {
    openapi: Bytes,
    docs: Bytes,
}

impl Pages {
    /// Of an OpenAPI description; its `x-limits`, an object, is shown as a table.
    pub fn of(description: &Value) -> Self {
        Self {
            openapi: description.to_string().into(),
            docs: page(description).into(),
        }
    }

    /// The answer of `/openapi.json`.
    pub fn openapi(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.openapi).into_response()
    }

    /// The answer of `/docs`.
    pub fn docs(self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        ];
        (headers, self.docs).into_response()
    }
}

fn page(description: &Value) -> String {
    let limits = &description["x-limits"];
    let title = text(&description["info"], "title");
    let operations = operations(description);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) " " (text(&description["info"], "version")) }
                (prose(text(&description["info"], "description")))
                p { "For programs: " a href="/openapi.json" { "openapi.json" } "." }
                nav {
                    @for operation in &operations {
                        a href={ "#" (operation.anchor()) } {
                            code { (operation.method) " " (operation.path) }
                        }
                    }
                }
                @if limits.is_object() {
                    section {
                        h2 { "Limits" }
                        (limits_table(limits))
                    }
                }
                @for operation in &operations { (operation.section()) }
                h2 { "Schemas" }
                @for (name, schema) in entries(&description["components"]["schemas"]) {
                    section id={ "schema-" (name) } {
                        h3 { (name) }
                        (prose(text(schema, "description")))
                        (shape(schema))
                    }
                }
            }
        }
    };
    page.into_string()
}

fn limits_table(limits: &Value) -> Markup {
    html! {
        table {
            @for (name, value) in entries(limits) {
                tr { td { code { (name) } } td { (value) } }
            }
        }
        p { "What each means stands below in " a href="#schema-Limits" { "Limits" } "." }
    }
}

struct Operation<'a> {
    method: String,
    path: &'a str,
    value: &'a Value,
}

fn operations(description: &Value) -> Vec<Operation<'_>> {
    let mut operations = Vec::new();
    for (path, methods) in entries(&description["paths"]) {
        operations.extend(entries(methods).map(|(method, value)| Operation {
            method: method.to_uppercase(),
            path,
            value,
        }));
    }
    operations
}

impl Operation<'_> {
    fn anchor(&self) -> &str {
        text(self.value, "operationId")
    }

    fn section(&self) -> Markup {
        let parameters = self.value["parameters"].as_array();
        let body = &self.value["requestBody"]["content"]["application/json"]["schema"];
        html! {
            section id=(self.anchor()) {
                h3 { code { (self.method) " " (self.path) } }
                (prose(text(self.value, "summary")))
                (prose(text(self.value, "description")))
                @if let Some(parameters) = parameters {
                    table {
                        tr { th { "Parameter" } th { "In" } th { "Is" } th {} }
                        @for parameter in parameters {
                            tr {
                                td { code { (text(parameter, "name")) } }
                                td { (text(parameter, "in")) }
                                td { (kind(&parameter["schema"])) }
                                td { (described(parameter)) }
                            }
                        }
                    }
                }
                @if !body.is_null() { p { "Takes " (kind(body)) "." } }
                table {
                    tr { th { "Status" } th { "Answer" } th {} }
                    @for (status, response) in entries(&self.value["responses"]) {
                        tr {
                            td { (status) }
                            td {
                                @for (media_type, content) in entries(&response["content"]) {
                                    (kind(&content["schema"])) " " code { (media_type) } " "
                                }
                            }
                            td { (described(response)) }
                        }
                    }
                }
            }
        }
    }
}

/// An object's properties, or what else a schema says.
fn shape(schema: &Value) -> Markup {
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    html! {
        @if let Some(properties) = schema["properties"].as_object() {
            table {
                @for (name, property) in properties {
                    tr {
                        td { code { (name) } }
                        td { (kind(property)) @if !is_required(name) { ", optional" } }
                        td { (described(property)) }
                    }
                }
            }
        } @else if let Some(kinds) = one_of(schema) {
            ul { @for one in kinds { li { (described(one)) " " (shape(one)) } } }
        } @else {
            p { (kind(schema)) }
        }
    }
}

/// What a value is, in a few words.
fn kind(schema: &Value) -> Markup {
    let list = |kinds: &[Value]| {
        html! {
            @for (index, one) in kinds.iter().enumerate() { @if index > 0 { " or " } (kind(one)) }
        }
    };
    if let Some(name) = reference(schema) {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    if let Some(kinds) = one_of(schema) {
        return list(kinds);
    }
    if let Some(constants) = schema["enum"].as_array() {
        return html! {
            @for (index, one) in constants.iter().enumerate() {
                @if index > 0 { ", " } code { (one) }
            }
        };
    }
    match &schema["type"] {
        Value::String(name) if name == "array" && schema["prefixItems"].is_array() => {
            let items = schema["prefixItems"].as_array();
            html! {
                "["
                @for (index, item) in items.into_iter().flatten().enumerate() {
                    @if index > 0 { ", " } (kind(item))
                }
                "]"
            }
        }
        Value::String(name) if name == "array" => html! { "list of " (kind(&schema["items"])) },
        Value::String(name) => html! {
            (name)
            @if let Some(pattern) = schema["pattern"].as_str() { " " code { (pattern) } }
            @for (word, bound) in [("from", &schema["minimum"]), ("to", &schema["maximum"])] {
                @if !bound.is_null() { " " (word) " " (bound) }
            }
        },
        Value::Array(names) => html! {
            @for (index, name) in names.iter().enumerate() {
                @if index > 0 { " or " } (name.as_str().unwrap_or_default())
            }
        },
        _ => html! { "anything" },
    }
}

fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn one_of(schema: &Value) -> Option<&Vec<Value>> {
    ["oneOf", "anyOf", "allOf"]
        .iter()
        .find_map(|key| schema[key].as_array())
}

fn described(value: &Value) -> Markup {
    inline(text(value, "description"))
}

fn prose(text: &str) -> Markup {
    html! { @if !text.is_empty() { p { (inline(text)) } } }
}

/// Text with code between backquotes.
fn inline(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}
