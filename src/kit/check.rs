//! The admission check, in words.

use anyhow::Result;
use modmint_runtime::{Admission, Bundle, Engines, LoadError, examine};

use super::Subject;

/// Prints what guardians and wallets would say of the bundle; whether they take it.
pub(super) fn check(subject: &Subject) -> Result<bool> {
    let file = subject.file.display();
    let findings: Vec<(String, String)> = match examine(&subject.bytes) {
        Err(findings) => findings
            .iter()
            .map(|finding| (finding.to_string(), finding.remedy().to_owned()))
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
                for capability in &admission.capabilities {
                    println!("  - {capability}");
                }
                return Ok(true);
            }
            Err(LoadError::Admit(finding)) => {
                vec![(finding.to_string(), finding.remedy().to_owned())]
            }
            Err(error) => vec![(
                error.to_string(),
                "`describe` and `actions` use no import and end; test them natively".into(),
            )],
        },
    };
    println!("{file}: refused.");
    for (number, (finding, remedy)) in (1..).zip(&findings) {
        println!("{number}. {finding}\n   {remedy}");
    }
    Ok(false)
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
