//! The admission check, in words.

use anyhow::Result;
use modmint_runtime::{
    Action, Admission, AdmitError, Audience, Bundle, Engines, LoadError, examine,
};

use super::Subject;

/// Prints what guardians and wallets would say of the bundle; whether they take it.
pub(super) fn check(subject: &Subject) -> Result<bool> {
    let file = subject.file.display();
    let findings: Vec<(String, &str)> = match examine(&subject.bytes) {
        Err(findings) => findings
            .iter()
            .map(|finding| (finding.to_string(), remedy(finding)))
            .collect(),
        Ok(admission) => match Bundle::load(&Engines::wallet()?, &subject.bytes) {
            Ok(bundle) => {
                let description = bundle.description();
                println!(
                    "{file}: admitted as {} {}, {}, by contract {}.",
                    description.kind,
                    description.version,
                    world(&admission),
                    admission.contract
                );
                println!("It is able to");
                for capability in able_to(&admission, bundle.actions()) {
                    println!("  - {capability}");
                }
                return Ok(true);
            }
            Err(error) => vec![(error.to_string(), remedy_of_loading(&error))],
        },
    };
    println!("{file}: refused.");
    for (number, (finding, remedy)) in (1..).zip(&findings) {
        println!("{number}. {finding}\n   {remedy}");
    }
    Ok(false)
}

/// What whoever wrote the module does about it.
fn remedy_of_loading(error: &LoadError) -> &'static str {
    match error {
        LoadError::Admit(finding) => remedy(finding),
        LoadError::Compile(_) => {
            "build it with `modmint module build`: what it makes compiles everywhere; if this was \
             made by it, the fault is the runtime's, and worth a report with the component"
        }
        // It does not say what it is.
        _ => "`describe` and `actions` use no import and end; test them natively",
    }
}

/// As the runtime says it; of what there may be only so many, each for itself.
fn remedy(finding: &AdmitError) -> &'static str {
    let AdmitError::TooMany { what, .. } = finding else {
        return finding.remedy();
    };
    match *what {
        "components inside each other" | "component instances" => {
            "compose nothing: a module is one component, made of one core module by \
             `modmint module build` or wit-component, which nest nothing"
        }
        "core modules" | "core instances" => {
            "link everything into one core module: wit-component adds the few that it needs itself"
        }
        "functions" => {
            "leave out what is not called: build with size optimisation and link-time \
             optimisation, as `modmint module build` does, and with fewer dependencies"
        }
        "memories" => "link everything into one core module, which has one memory",
        "initial memory pages" => {
            "start with less memory, it grows by itself: make static arrays and the shadow stack \
             smaller (the linker's --initial-memory and -z stack-size)"
        }
        "tables" => "keep function pointers in one table, as compilers do by themselves",
        "initial table elements" => {
            "take the address of fewer functions: each that a pointer or a `dyn` may call is an \
             element of the table"
        }
        _ => finding.remedy(),
    }
}

/// What a bundle is able to do, in words: what it imports, and what the wallets' half of any
/// bundle can ask for, which no list of imports names.
pub(super) fn able_to(admission: &Admission, actions: &[Action]) -> Vec<String> {
    let mut able = admission.capabilities.clone();
    if admission.has_client {
        able.push(
            "in wallets: ask for money, which the person confirms; fetch from public hosts by \
             https; ask the application around the wallet for what it offers"
                .to_owned(),
        );
    }
    let own = actions
        .iter()
        .filter(|action| action.audience == Audience::Background);
    let own: Vec<_> = own.map(|action| action.name.as_str()).collect();
    if !own.is_empty() {
        able.push(format!(
            "in wallets: do so by itself, but for the money, in {}",
            own.join(", ")
        ));
    }
    able
}

/// What a bundle is for, in words.
pub(super) fn world(admission: &Admission) -> &'static str {
    match (
        admission.has_server,
        admission.has_client,
        admission.has_ecash,
    ) {
        (_, _, true) => "for guardians and wallets, and holds wallets' money",
        (true, true, false) => "for guardians and wallets",
        (true, false, false) => "for guardians alone",
        _ => "for wallets alone",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use modmint_runtime::{CallError, ContractVersion};

    use super::*;

    /// As the runtime counts them.
    const COUNTED: [&str; 9] = [
        "components inside each other",
        "component instances",
        "core modules",
        "core instances",
        "functions",
        "memories",
        "initial memory pages",
        "tables",
        "initial table elements",
    ];

    fn too_many(what: &'static str) -> AdmitError {
        AdmitError::TooMany {
            what,
            found: 2,
            limit: 1,
        }
    }

    #[test]
    fn whatever_there_is_too_much_of_has_a_remedy_of_its_own() {
        let general = too_many("anything else").remedy();
        for what in COUNTED {
            assert_ne!(remedy(&too_many(what)), general, "{what}");
        }
    }

    #[test]
    fn each_finding_has_a_remedy_that_is_not_anothers() {
        let text = String::new;
        let findings = [
            AdmitError::TooLarge { size: 2, limit: 1 },
            AdmitError::Invalid(text()),
            too_many("functions"),
            too_many("memories"),
            AdmitError::Function {
                module: 0,
                function: 0,
                what: "bytes of code",
                found: 2,
                limit: 1,
            },
            AdmitError::ContractVersion { found: text() },
            AdmitError::UnknownImport {
                import: "wasi:cli/exit@0.2.0".into(),
            },
            AdmitError::UnknownImport {
                import: "env".into(),
            },
            AdmitError::ImportType {
                import: text(),
                reason: text(),
            },
            AdmitError::UnknownExport { export: text() },
            AdmitError::MissingExport {
                export: text(),
                reason: "",
            },
            AdmitError::Description {
                field: text(),
                reason: text(),
            },
        ];
        let mut remedies: Vec<_> = findings.iter().map(remedy).collect();
        let same = AdmitError::ExportType {
            export: text(),
            reason: text(),
        };
        assert_eq!(remedy(&same), remedies[8], "bindings are bindings");
        let refused = modmint_core::Refusal {
            code: "no".into(),
            message: "no".into(),
        };
        remedies.push(remedy_of_loading(&LoadError::Compile(text())));
        let describe = LoadError::Describe(CallError::Refused(refused));
        remedies.push(remedy_of_loading(&describe));
        assert!(remedies.iter().all(|remedy| remedy.len() > 10));
        let different: BTreeSet<_> = remedies.iter().collect();
        assert_eq!(different.len(), remedies.len(), "{remedies:?}");
    }

    #[test]
    fn what_no_import_names_is_said_of_a_wallets_half() {
        let mut admission = Admission {
            contract: ContractVersion::NEWEST,
            has_server: true,
            has_client: false,
            has_ecash: false,
            capabilities: vec!["hash".into()],
        };
        assert_eq!(able_to(&admission, &[]), ["hash"]);
        admission.has_client = true;
        let action = |audience| Action {
            name: "refresh".into(),
            summary: "Looks again.".into(),
            audience,
            parameters: Vec::new(),
        };
        let told = able_to(&admission, &[action(Audience::Person)]).join("; ");
        assert!(
            told.contains("https") && !told.contains("refresh"),
            "{told}"
        );
        let told = able_to(&admission, &[action(Audience::Background)]).join("; ");
        assert!(
            told.ends_with("by itself, but for the money, in refresh"),
            "{told}"
        );
    }
}
