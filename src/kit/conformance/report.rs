//! What the suite says of a bundle.

use std::fmt;

use super::FILE;
use crate::kit::fuel;

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It holds; what was seen of it.
    Holds(String),
    /// It does not; what is wrong.
    Fails(String),
    /// Nothing was seen of it, because nobody says what the module is for.
    NotChecked,
    /// There is nothing of the kind in this bundle or its scenario; what is not there.
    PassedOver(String),
}

/// What was checked of a bundle, and what was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Kind and version.
    pub bundle: String,
    /// In order: what must hold, and what was found of it.
    pub checks: Vec<(&'static str, Found)>,
    /// What the scenario never touches: actions, queries, consensus items.
    pub untouched: Vec<String>,
    /// What its calls cost.
    pub fuel: Option<fuel::Report>,
}

impl Report {
    /// Whether all of it holds, and was looked at.
    pub fn passed(&self) -> bool {
        self.checks
            .iter()
            .all(|(_, found)| matches!(found, Found::Holds(_) | Found::PassedOver(_)))
    }

    /// What does not hold: the check, and what is wrong.
    pub fn failed(&self) -> Vec<(&'static str, &str)> {
        let mut all = Vec::new();
        for (check, found) in &self.checks {
            if let Found::Fails(wrong) = found {
                all.push((*check, wrong.as_str()));
            }
        }
        all
    }

    pub(super) fn add(&mut self, check: &'static str, found: Found) {
        self.checks.push((check, found));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.bundle)?;
        let mut not_checked = 0;
        for (check, found) in &self.checks {
            match found {
                Found::Holds(seen) => writeln!(f, "  ok           {check}: {seen}")?,
                Found::Fails(wrong) => writeln!(f, "  FAILED       {check}: {wrong}")?,
                Found::NotChecked => {
                    not_checked += 1;
                    writeln!(f, "  not checked  {check}: no {FILE}")?;
                }
                Found::PassedOver(lacks) => writeln!(f, "  passed over  {check}: {lacks}")?,
            }
        }
        if !self.untouched.is_empty() {
            let untouched = self.untouched.join(", ");
            writeln!(f, "  The scenario never touches: {untouched}")?;
        }
        if not_checked > 0 {
            write!(
                f,
                "\nThis is no pass: {not_checked} checks need to know what the module is for. A \
                 {FILE} beside it says so, or a file named by --scenario."
            )?;
        }
        match &self.fuel {
            Some(fuel) => write!(f, "\n{fuel}"),
            None => Ok(()),
        }
    }
}
