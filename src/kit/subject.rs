//! What a command is about: a component, or a folder that becomes one.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use modmint_core::{Argument, Parameter};
use modmint_runtime::{Bundle, Engines};

use super::build::build;

/// A component's bytes, and where they are.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The component.
    pub file: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Subject {
    /// Reads a component; builds it first if `path` is a module's folder.
    ///
    /// # Errors
    /// It does not build, or there is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = if path.is_dir() {
            build(path)?.component
        } else {
            path.to_owned()
        };
        let bytes =
            std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        Ok(Self { file, bytes })
    }

    /// Loads it, for looking at.
    ///
    /// # Errors
    /// It is not admitted; `modmint module check` says more.
    pub fn load(&self) -> Result<Arc<Bundle>> {
        Bundle::load(&Engines::wallet()?, &self.bytes)
            .with_context(|| format!("{} is refused", self.file.display()))
    }
}

/// `NAME=VALUE`: an argument as somebody types it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    name: String,
    value: String,
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is no NAME=VALUE"))?;
        Ok(Self {
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl Setting {
    /// A value for the parameter of this name.
    pub fn new(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    /// Whether it is for a module of this kind.
    pub fn is_of(&self, kind: &str) -> bool {
        self.of_kind(kind).is_some()
    }

    /// For one module of several: `KIND.NAME=VALUE`, without the kind; none if it is
    /// another's.
    pub fn of_kind(&self, kind: &str) -> Option<Self> {
        let name = self.name.strip_prefix(kind)?.strip_prefix('.')?;
        Some(Self {
            name: name.to_owned(),
            value: self.value.clone(),
        })
    }

    /// As the module declares it.
    ///
    /// # Errors
    /// There is no such parameter, or the value is not of its kind.
    pub fn argument(&self, parameters: &[Parameter]) -> Result<Argument> {
        let parameter = parameters.iter().find(|p| p.name == self.name);
        let parameter = parameter.ok_or_else(|| {
            let known: Vec<_> = parameters.iter().map(|p| p.name.as_str()).collect();
            match known.is_empty() {
                true => anyhow!("{:?}: this module is configured with nothing", self.name),
                false => anyhow!("{:?} is none of: {}", self.name, known.join(", ")),
            }
        })?;
        let value = parameter.kind.parse(&self.value);
        Ok(Argument {
            name: self.name.clone(),
            value: value.map_err(|error| anyhow!("{}: {error}", self.name))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use modmint_core::{Amount, ParameterKind, Value};

    use super::*;

    #[test]
    fn a_setting_is_of_one_module_and_of_the_kind_that_it_declares() {
        let fee = Parameter {
            name: "fee".into(),
            summary: "What it costs.".into(),
            kind: ParameterKind::Amount,
            required: false,
            default: None,
        };
        let setting: Setting = "escrow.fee=10 sat".parse().expect("well-formed");
        assert_eq!(setting.of_kind("mint"), None);
        let setting = setting.of_kind("escrow").expect("it is escrow's");
        let argument = setting.argument(std::slice::from_ref(&fee));
        assert_eq!(
            argument.expect("an amount").value,
            Value::Amount(Amount(10_000))
        );
        let wrong: Setting = "fees=1".parse().expect("well-formed");
        let told = wrong.argument(&[fee]).expect_err("unknown").to_string();
        assert!(told.contains("none of: fee"), "{told}");
        assert!("fee".parse::<Setting>().is_err());
    }
}
