//! The versions of the contract that a bundle may be built against.
//!
//! Everywhere else in the runtime there is one contract, the newest. An older one is a
//! frozen folder in `wit/` and a module here: the host lends it the same imports under its
//! own names, and what it says in older shapes becomes the newest ones. This happens
//! outside the guest, so that a bundle's answers and its fuel are what they always were.

mod v0_1;

use std::{fmt, str::FromStr};

use wasmtime::{
    Store,
    component::{ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower},
};

use crate::{
    HostError,
    bindings::{
        self,
        exports::modmint::module::{client::Action, module_info::Description},
        modmint::module::types::Refusal,
    },
    call::Call,
    convert::{self, Checked},
    trap::Stop,
};

/// The package that every version of the contract is a version of.
const PACKAGE: &str = "modmint:module";

/// A version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContractVersion {
    /// `wit/0.1`.
    V0_1,
    /// `wit`: parameters have defaults.
    V0_2,
}

impl ContractVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 2] = [Self::V0_1, Self::V0_2];
    /// What new modules are written against.
    pub const NEWEST: Self = Self::V0_2;

    /// As in the names of a bundle's imports and exports.
    pub const fn number(self) -> &'static str {
        match self {
            Self::V0_1 => "0.1.0",
            Self::V0_2 => "0.2.0",
        }
    }

    /// Of `modmint:module/storage@0.1.0`: `0.1.0`, whether there is such a version or not.
    /// None for a name that is not the contract's.
    pub(crate) fn number_in(name: &str) -> Option<&str> {
        let (_, number) = name
            .strip_prefix(PACKAGE)?
            .strip_prefix('/')?
            .split_once('@')?;
        Some(number)
    }

    /// The version of this number.
    pub(crate) fn of_number(number: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.number() == number)
    }

    /// An interface's name in this version: `modmint:module/storage@0.1.0`.
    pub(crate) fn interface(self, name: &str) -> String {
        format!("{PACKAGE}/{name}@{}", self.number())
    }

    /// Its largest world, encoded: what bundles are compared with.
    pub(crate) const fn component_type(self) -> &'static [u8] {
        match self {
            Self::V0_1 => v0_1::COMPONENT_TYPE,
            Self::V0_2 => bindings::COMPONENT_TYPE,
        }
    }

    /// What a module of this version says that it is.
    pub(crate) fn describe(
        self,
        info: &Exported,
        store: &mut Store<Call>,
    ) -> wasmtime::Result<Description> {
        match self {
            Self::V0_1 => info.call(store, "describe", ()).map(v0_1::description),
            Self::V0_2 => info.call(store, "describe", ()),
        }
    }

    /// What a module of this version can be asked to do.
    pub(crate) fn actions(
        self,
        client: &Exported,
        store: &mut Store<Call>,
    ) -> wasmtime::Result<Vec<Action>> {
        match self {
            Self::V0_1 => client.call(store, "actions", ()).map(v0_1::actions),
            Self::V0_2 => client.call(store, "actions", ()),
        }
    }
}

impl FromStr for ContractVersion {
    type Err = String;

    /// `0.1.0`, or `0.1` as its folder is called.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::of_number(text)
            .or_else(|| Self::of_number(&format!("{text}.0")))
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::number).join(", ");
                format!("there is no contract {text:?}; known are: {known}")
            })
    }
}

impl fmt::Display for ContractVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.number())
    }
}

/// An interface that an instance exports, of whatever version.
///
/// Functions are found by their names and checked against the types of the call, which
/// are the newest contract's wherever an older one has the same.
pub(crate) struct Exported {
    instance: Instance,
    interface: ComponentExportIndex,
}

impl Exported {
    pub(crate) fn new(instance: Instance, interface: ComponentExportIndex) -> Self {
        Self {
            instance,
            interface,
        }
    }

    /// Calls a function.
    pub(crate) fn call<P, R>(
        &self,
        store: &mut Store<Call>,
        function: &str,
        arguments: P,
    ) -> wasmtime::Result<R>
    where
        P: ComponentNamedList + Lower,
        (R,): ComponentNamedList + Lift + 'static,
    {
        // Admission has compared the bundle with its version of the contract: what is
        // not there or of another type is this program's mistake, and no module's trap.
        let mistake = |what: String| Stop::Host(HostError(format!("{function}: {what}")));
        let index = self
            .instance
            .get_export_index(&mut *store, Some(&self.interface), function)
            .ok_or_else(|| mistake("the bundle was admitted without it".into()))?;
        let typed = self
            .instance
            .get_typed_func::<P, (R,)>(&mut *store, &index)
            .map_err(|error| mistake(format!("{error:#}")))?;
        let (result,) = typed.call(store, arguments)?;
        Ok(result)
    }

    /// Calls a function that may refuse.
    pub(crate) fn ask<P, R>(
        &self,
        store: &mut Store<Call>,
        function: &str,
        arguments: P,
    ) -> wasmtime::Result<Checked<R>>
    where
        P: ComponentNamedList + Lower,
        (Result<R, Refusal>,): ComponentNamedList + Lift + 'static,
    {
        let answer: Result<R, Refusal> = self.call(store, function, arguments)?;
        Ok(answer.map_err(convert::refusal))
    }
}

#[cfg(test)]
mod tests {
    use modmint_core::{BundleHash, sha256};

    use super::*;

    #[test]
    fn a_frozen_contract_is_what_it_was() {
        // Bundles built against it are in federations. A new version has a new folder:
        // docs/modules/versions.md.
        let text = include_bytes!("../../../wit/0.1/federation-module.wit");
        assert_eq!(
            BundleHash(sha256(text)).to_string(),
            "fd71327b443b446e67da73a65a402962384ac6525e65ec795734e8ed26086838"
        );
    }

    #[test]
    fn the_newest_contract_is_the_newest_version() {
        let text = include_str!("../../../wit/federation-module.wit");
        let package = format!("\npackage {PACKAGE}@{};\n", ContractVersion::NEWEST);
        assert!(text.contains(&package), "{package}");
        assert_eq!(ContractVersion::ALL.last(), Some(&ContractVersion::NEWEST));
    }

    #[test]
    fn versions_are_known_by_the_names_of_interfaces() {
        for version in ContractVersion::ALL {
            let name = version.interface("storage");
            let number = ContractVersion::number_in(&name);
            assert_eq!(number, Some(version.number()));
            assert_eq!(number.and_then(ContractVersion::of_number), Some(version));
        }
        let newer = ContractVersion::number_in("modmint:module/storage@0.9.0");
        assert_eq!(newer.and_then(ContractVersion::of_number), None);
        assert_eq!(ContractVersion::number_in("wasi:io/poll@0.2.0"), None);
        assert_eq!("0.1".parse(), Ok(ContractVersion::V0_1));
        assert_eq!("0.2.0".parse(), Ok(ContractVersion::V0_2));
        "0.9".parse::<ContractVersion>().expect_err("unknown");
    }
}
