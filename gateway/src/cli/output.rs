//! What people see: lines of names and values, and tables.

use std::{fmt::Write as _, io::Write as _};

use modmint_core::Amount;
use serde_json::{Value, json};

/// Text from the network without what would move the cursor.
fn clean(text: &str) -> String {
    let harmless = |c: char| match c.is_control() {
        true => '\u{fffd}',
        false => c,
    };
    text.chars().map(harmless).collect()
}

pub fn print(text: &str) {
    // A reader that has gone away wants nothing more.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub fn error(as_json: bool, code: &str, message: &str) {
    if as_json {
        let document = json!({ "error": { "code": code, "message": message } });
        print(&format!("{document:#}\n"));
    } else {
        let _ = writeln!(std::io::stderr(), "{} ({})", clean(message), clean(code));
    }
}

/// A value on one line.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}

/// Millisatoshi, as amounts are written everywhere.
fn msat(value: &Value) -> String {
    match (value.as_u64(), value.as_i64()) {
        (Some(msat), _) => Amount(msat).to_string(),
        (None, Some(msat)) => format!("-{}", Amount(msat.unsigned_abs())),
        _ => "-".to_owned(),
    }
}

fn sat(value: &Value) -> String {
    value.as_u64().map_or("-".to_owned(), |sat| {
        Amount(sat.saturating_mul(1000)).to_string()
    })
}

/// The beginning of what is too long for a table.
fn short(value: &Value) -> String {
    text(value).chars().take(16).collect()
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            widest.max(name.chars().count())
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        format!("{}\n", line.trim_end())
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Nothing but that it is done.
pub fn done(_: &Value) -> String {
    "done\n".to_owned()
}

/// The only value of an answer.
pub fn only(answer: &Value) -> String {
    let values = answer.as_object().into_iter().flat_map(|all| all.values());
    values.map(|value| format!("{}\n", text(value))).collect()
}

/// Each name with its value.
pub fn names(answer: &Value) -> String {
    let all = answer.as_object().into_iter().flatten();
    all.map(|(name, value)| format!("{}: {}\n", clean(name), text(value)))
        .collect()
}

pub fn info(answer: &Value) -> String {
    let node = &answer["node"];
    let mut out = format!(
        "{} ({}), version {}\n",
        text(&node["alias"]),
        text(&node["network"]),
        text(&answer["version"])
    );
    let _ = writeln!(out, "  node         {}", text(&node["node_key"]));
    let _ = writeln!(out, "  reached at   {}", text(&node["addresses"]));
    let _ = writeln!(out, "  height       {}", text(&node["height"]));
    let _ = writeln!(out, "  federations  {}", text(&answer["federations"]));
    if answer["halted"] == true {
        out.push_str("  HALTED: money is missing; look at `solvency`\n");
    }
    out
}

pub fn ready(answer: &Value) -> String {
    let rows: Vec<_> = items(&answer["checks"])
        .iter()
        .map(|check| {
            let ok = match (check["ok"] == true, check["required"] == true) {
                (true, _) => "ok",
                (false, true) => "FAILED",
                (false, false) => "warning",
            };
            vec![
                text(&check["name"]),
                ok.to_owned(),
                text(&check["problems"]),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        text(&answer["status"]),
        table(&["check", "", "problem"], &rows)
    )
}

pub fn balances(answer: &Value) -> String {
    let node = &answer["node"];
    let mut rows = vec![
        vec!["on chain".to_owned(), sat(&node["onchain_sat"])],
        vec![
            "  spendable".to_owned(),
            sat(&node["onchain_spendable_sat"]),
        ],
        vec!["in channels".to_owned(), sat(&node["lightning_sat"])],
        vec!["  can pay".to_owned(), msat(&node["outbound_msat"])],
        vec!["  can receive".to_owned(), msat(&node["inbound_msat"])],
    ];
    for federation in items(&answer["federations"]) {
        let name = format!("e-cash of {}", text(&federation["name"]));
        rows.push(vec![name, msat(&federation["balance_msat"])]);
    }
    let held = &answer["solvency"];
    rows.push(vec!["under way".to_owned(), msat(&held["under_way_msat"])]);
    rows.push(vec!["all".to_owned(), msat(&held["total_msat"])]);
    table(&["", ""], &rows).trim_start().to_owned()
}

pub fn federations(answer: &Value) -> String {
    let rows: Vec<_> = items(answer)
        .iter()
        .map(|row| {
            let terms = &row["terms"];
            let fee = |base: &str, parts: &str| {
                format!("{} + {} ppm", msat(&terms[base]), text(&terms[parts]))
            };
            vec![
                text(&row["id"]),
                text(&row["name"]),
                if row["active"] == true {
                    "served"
                } else {
                    "left"
                }
                .to_owned(),
                msat(&row["balance_msat"]),
                format!(
                    "{} of {}",
                    msat(&row["exposure_msat"]),
                    msat(&terms["maximum_exposure_msat"])
                ),
                fee("pay_base_msat", "pay_parts_per_million"),
                fee("receive_base_msat", "receive_parts_per_million"),
            ]
        })
        .collect();
    table(
        &[
            "id",
            "name",
            "",
            "e-cash",
            "exposure",
            "pay fee",
            "receive fee",
        ],
        &rows,
    )
}

pub fn federation(answer: &Value) -> String {
    federations(&json!([answer]))
}

pub fn channels(answer: &Value) -> String {
    let rows: Vec<_> = items(answer)
        .iter()
        .map(|row| {
            let state = match (row["usable"] == true, row["ready"] == true) {
                (true, _) => "usable",
                (false, true) => "peer away",
                (false, false) => "unconfirmed",
            };
            vec![
                text(&row["id"]),
                text(&row["peer"]),
                sat(&row["capacity_sat"]),
                msat(&row["outbound_msat"]),
                msat(&row["inbound_msat"]),
                state.to_owned(),
            ]
        })
        .collect();
    table(
        &["id", "peer", "capacity", "can pay", "can receive", "state"],
        &rows,
    )
}

pub fn payments(answer: &Value) -> String {
    let rows: Vec<_> = items(&answer["items"])
        .iter()
        .map(|row| {
            let seconds = row["updated"]
                .as_u64()
                .zip(row["created"].as_u64())
                .map_or(0, |(end, begin)| end.saturating_sub(begin));
            let direction = match row["swap"] == true {
                true => format!("{} (swap)", text(&row["direction"])),
                false => text(&row["direction"]),
            };
            vec![
                text(&row["number"]),
                direction,
                text(&row["state"]),
                msat(&row["amount_msat"]),
                msat(&row["earned_msat"]),
                format!("{seconds} s"),
                short(&row["federation"]),
                short(&row["payment_hash"]),
                text(&row["reason"]),
            ]
        })
        .collect();
    let head = [
        "number",
        "way",
        "state",
        "amount",
        "earned",
        "took",
        "federation",
        "hash",
        "reason",
    ];
    let mut out = table(&head, &rows);
    if let Some(cursor) = answer["next_cursor"].as_u64() {
        let _ = writeln!(out, "More: --cursor {cursor}");
    }
    out
}

pub fn summary(answer: &Value) -> String {
    let line = |name: &str, sums: &Value| {
        vec![
            name.to_owned(),
            text(&sums["paid"]),
            text(&sums["failed"]),
            text(&sums["pending"]),
            msat(&sums["amount_msat"]),
            msat(&sums["earned_msat"]),
            format!("{} s", text(&sums["median_seconds"])),
        ]
    };
    let rows = [line("out", &answer["out"]), line("in", &answer["incoming"])];
    table(
        &[
            "way", "paid", "failed", "pending", "amount", "earned", "median",
        ],
        &rows,
    )
}

pub fn solvency(answer: &Value) -> String {
    let row = |name: &str, key: &str| vec![name.to_owned(), msat(&answer[key])];
    let rows = [
        row("on chain", "onchain_msat"),
        row("in channels", "lightning_msat"),
        row("e-cash", "ecash_msat"),
        row("under way", "under_way_msat"),
        row("all", "total_msat"),
        row("the most there was", "highest_msat"),
        row("missing", "missing_msat"),
    ];
    let federations: Vec<_> = items(&answer["federations"])
        .iter()
        .map(|book| {
            vec![
                short(&book["id"]),
                text(&book["status"]),
                msat(&book["ecash_msat"]),
                msat(&book["missing_msat"]),
                text(&book["problem"]),
            ]
        })
        .collect();
    format!(
        "{}\n{}{}",
        text(&answer["status"]),
        table(&["", ""], &rows).trim_start(),
        table(
            &["federation", "", "e-cash", "missing", "problem"],
            &federations
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_nothing_moves_the_cursor() {
        let answer = json!([{
            "id": "1", "peer": "\u{1b}[2Jpeer", "capacity_sat": 1000, "outbound_msat": 1,
            "inbound_msat": 2, "usable": false, "ready": true,
        }]);
        let shown = channels(&answer);
        let lines: Vec<_> = shown.lines().collect();
        let [head, row] = lines.as_slice() else {
            panic!("{shown}");
        };
        assert!(!shown.contains('\u{1b}'), "{shown}");
        let column = |line: &str, of: &str| {
            let at = line.find(of).map(|at| line[..at].chars().count());
            at.unwrap_or_else(|| panic!("no {of} in {line}"))
        };
        assert_eq!(column(head, "state"), column(row, "peer away"));
    }
}
