//! The one admission check: what guardians, wallets, tools and CI demand of a
//! bundle before it is compiled.
//!
//! Nothing runs here. Bytes are validated, functions measured, imports and exports
//! compared with the contract's. What a module says of itself is checked by
//! `describe` when it is loaded.

use std::{collections::BTreeSet, fmt::Write as _};

use wasmparser::{
    BinaryReaderError, CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, Encoding, FuncValidatorAllocations, Instance,
    Parser, Payload, ValidPayload, Validator,
    component_types::{
        ComponentAnyTypeId, ComponentEntityType, ComponentType, ComponentTypeId, SubtypeCx,
    },
    types::{Types, TypesRef},
};

use crate::{ContractVersion, engine::FEATURES, limits, prices::IMPORTS};

/// What the static check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The version of the contract that it is built against.
    pub contract: ContractVersion,
    /// It exports what guardians load.
    pub has_server: bool,
    /// It exports what wallets load.
    pub has_client: bool,
    /// It holds the wallet's money.
    pub has_ecash: bool,
    /// What the component is able to do, in words, from its imports alone.
    pub capabilities: Vec<String>,
}

/// Why a bundle is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmitError {
    /// More bytes than a bundle may have.
    #[error("the bundle has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What was given, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// No component, or one that uses what engines here do not have.
    #[error("the bundle is no component that is accepted here: {0}")]
    Invalid(String),
    /// More of something than a component may have.
    #[error("the bundle has {found} {what}, the limit is {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// A function that would need too much stack or time to compile.
    #[error("function {function} of core module {module} has {found} {what}, the limit is {limit}")]
    Function {
        /// The core module, counted from 0.
        module: u32,
        /// The function's index.
        function: u32,
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// How many may be.
        limit: u64,
    },
    /// A version of the contract that is not known here, or several.
    #[error(
        "the bundle is built against modmint:module {found}; accepted is one of {}",
        ContractVersion::ALL.map(ContractVersion::number).join(", ")
    )]
    ContractVersion {
        /// The versions that its imports and exports name.
        found: String,
    },
    /// An import that the contract does not have.
    #[error("import {import} is not in the contract; a module imports nothing else")]
    UnknownImport {
        /// Its name, with the interface's.
        import: String,
    },
    /// An import of another type than the contract's.
    #[error("import {import} is not as in the contract: {reason}")]
    ImportType {
        /// The interface.
        import: String,
        /// Where they differ.
        reason: String,
    },
    /// An export that the contract does not have.
    #[error("export {export} is not in the contract")]
    UnknownExport {
        /// Its name.
        export: String,
    },
    /// An export that every world of this kind has.
    #[error("export {export} is missing: {reason}")]
    MissingExport {
        /// Its name.
        export: String,
        /// Why it is needed.
        reason: &'static str,
    },
    /// An export of another type than the contract's.
    #[error("export {export} is not as in the contract: {reason}")]
    ExportType {
        /// The interface.
        export: String,
        /// Where they differ.
        reason: String,
    },
    /// Something that a module says of itself and nobody could use.
    #[error("the module's {field} is not usable: {reason}")]
    Description {
        /// Which, for example `description.kind`.
        field: String,
        /// What is wrong, and what would be accepted.
        reason: String,
    },
}

impl AdmitError {
    /// What whoever wrote the module does about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => {
                "build it with `modmint module build`, which optimises for size and strips names, \
                 and leave out what is large: parsers, regular expressions, tables"
            }
            Self::Invalid(_) => {
                "build it with `modmint module build`, or make a component of a core module of \
                 this contract's world with wit-component; threads, vectors (SIMD), exceptions, \
                 tail calls and garbage collection are not accepted"
            }
            Self::TooMany { .. } => {
                "link everything into one core module with one memory, instantiate it once, and \
                 start with little memory: it grows by itself"
            }
            Self::Function { .. } => {
                "split the function, or keep the compiler from inlining others into it \
                 (#[inline(never)])"
            }
            Self::ContractVersion { .. } => {
                "build it against one of these; a newer host may know what this one does not"
            }
            Self::UnknownImport { import } if import.starts_with("wasi:") => {
                "compile to wasm32-unknown-unknown, not to a WASI target, and leave out what \
                 needs clocks, files, environment or random numbers: a module has the contract's \
                 imports alone"
            }
            Self::UnknownImport { .. } => {
                "import only what the contract has, in the version that the bundle is built against"
            }
            Self::ImportType { .. } | Self::ExportType { .. } => {
                "make the bindings from the contract's own text: wit/federation-module.wit, or that \
                 of an older version in its folder"
            }
            Self::UnknownExport { .. } => {
                "export the interfaces of one of the contract's worlds and nothing else"
            }
            Self::MissingExport { .. } => {
                "implement it; with the SDK, name the world in modmint_sdk::export!(…)"
            }
            Self::Description { .. } => "change what `describe` or `actions` returns",
        }
    }
}

/// Checks a bundle without running it.
///
/// # Errors
/// Names the import, export, function, size or field that is wrong.
pub fn admit(bytes: &[u8]) -> Result<Admission, AdmitError> {
    examine(bytes).map_err(|mut findings| findings.swap_remove(0))
}

/// As [`admit`], for whoever wrote the bundle: goes on behind the first finding where
/// that makes sense, with imports and exports.
///
/// # Errors
/// At least one finding.
pub fn examine(bytes: &[u8]) -> Result<Admission, Vec<AdmitError>> {
    if bytes.len() > limits::MAX_BUNDLE_BYTES {
        return Err(vec![AdmitError::TooLarge {
            size: bytes.len(),
            limit: limits::MAX_BUNDLE_BYTES,
        }]);
    }
    // One validator for both, because only types of one validator compare.
    let mut validator = Validator::new_with_features(FEATURES);
    let (bundle, imports, exports) =
        measure(&mut validator, bytes).map_err(|finding| vec![finding])?;
    let version = version(imports.iter().chain(&exports)).map_err(|finding| vec![finding])?;
    validator.reset();
    let contract = validator
        .validate_all(version.component_type())
        .expect("the contract is encoded by the compiler of this crate");
    let contract = Contract::new(&contract);
    let mut findings = Vec::new();
    let imported = contract.check_imports(&bundle, &imports, &mut findings);
    let (has_server, has_client, has_ecash) =
        contract.check_exports(&bundle, &exports, &mut findings);
    if !findings.is_empty() {
        return Err(findings);
    }
    Ok(Admission {
        contract: version,
        has_server,
        has_client,
        has_ecash,
        capabilities: capabilities(&imported),
    })
}

fn invalid(error: &BinaryReaderError) -> AdmitError {
    AdmitError::Invalid(error.to_string())
}

/// The version that these names are of. A component that names none is compared with the
/// newest, which says what it lacks.
fn version<'a>(names: impl Iterator<Item = &'a String>) -> Result<ContractVersion, AdmitError> {
    let numbers: BTreeSet<_> = names
        .filter_map(|name| ContractVersion::number_in(name))
        .collect();
    let numbers: Vec<_> = numbers.into_iter().collect();
    let known = match numbers.as_slice() {
        [] => Some(ContractVersion::NEWEST),
        [number] => ContractVersion::of_number(number),
        _ => None,
    };
    known.ok_or_else(|| AdmitError::ContractVersion {
        found: numbers.join(" and ").chars().take(80).collect(),
    })
}

fn bounded(what: &'static str, found: u64, limit: u64) -> Result<(), AdmitError> {
    if found <= limit {
        Ok(())
    } else {
        Err(AdmitError::TooMany { what, found, limit })
    }
}

/// What comes into being with one instance of a component or core module, in all that is
/// nested in it.
#[derive(Clone, Copy, Default)]
struct Made {
    components: u64,
    modules: u64,
    memories: u64,
    tables: u64,
}

impl Made {
    /// As this and another together.
    ///
    /// # Errors
    /// They are more than there may be.
    fn with(self, other: Self) -> Result<Self, AdmitError> {
        let made = Self {
            components: self.components + other.components,
            modules: self.modules + other.modules,
            memories: self.memories + other.memories,
            tables: self.tables + other.tables,
        };
        for (what, found, limit) in [
            (
                "component instances",
                made.components,
                limits::MAX_COMPONENT_INSTANCES,
            ),
            ("core instances", made.modules, limits::MAX_CORE_INSTANCES),
            ("memories", made.memories, limits::MAX_MEMORIES),
            ("tables", made.tables, limits::MAX_TABLES),
        ] {
            bounded(what, found, limit as u64)?;
        }
        Ok(made)
    }
}

/// A component while it is read: by index, what an instance of each component and core
/// module that it knows makes. None of what is not in the bundle's own text, such as an
/// import: it is not to be instantiated, since nobody could count what it makes.
#[derive(Default)]
struct Scope {
    components: Vec<Option<Made>>,
    modules: Vec<Option<Made>>,
    made: Made,
}

fn known(all: &[Option<Made>], index: u32) -> Option<Made> {
    *all.get(usize::try_from(index).ok()?)?
}

fn instantiated(all: &[Option<Made>], index: u32) -> Result<Made, AdmitError> {
    known(all, index).ok_or_else(|| {
        AdmitError::Invalid(
            "it instantiates a component or core module that does not stand in it as such; only \
             those that do can be counted"
                .into(),
        )
    })
}

/// Counts what is instantiated, each time that it is: components in each other are as many
/// as the product of what each says.
#[derive(Default)]
struct Instances {
    /// The outermost first.
    scopes: Vec<Scope>,
    /// The core module that is read.
    module: Option<Made>,
    /// Whether a function of the bundle's own has been made one of a component.
    lifts: bool,
}

impl Instances {
    fn see(&mut self, payload: &Payload<'_>) -> Result<(), AdmitError> {
        let depth = self.scopes.len();
        match payload {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => self.scopes.push(Scope::default()),
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => {
                self.module = Some(Made {
                    modules: 1,
                    ..Made::default()
                });
            }
            Payload::MemorySection(section) => {
                if let Some(module) = &mut self.module {
                    module.memories += u64::from(section.count());
                }
            }
            Payload::TableSection(section) => {
                if let Some(module) = &mut self.module {
                    module.tables += u64::from(section.count());
                }
            }
            Payload::End(_) => match self.module.take() {
                Some(module) => {
                    if let Some(scope) = self.scopes.last_mut() {
                        scope.modules.push(Some(module));
                    }
                }
                None => {
                    if let (Some(ended), Some(scope)) = (self.scopes.pop(), self.scopes.last_mut())
                    {
                        scope.components.push(Some(ended.made));
                    }
                }
            },
            Payload::ComponentAliasSection(section) => {
                for alias in section.clone() {
                    self.alias(&alias.map_err(|error| invalid(&error))?);
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section.clone() {
                    match function.map_err(|error| invalid(&error))? {
                        CanonicalFunction::Lift { .. } => self.lifts = true,
                        // What is lowered is lifted nowhere then, and no code is made to
                        // tie the two together.
                        CanonicalFunction::Lower { .. } if self.lifts || depth > 1 => {
                            return Err(AdmitError::Invalid(
                                "components in it call each other; what does is linked into one \
                                 core module, and the outermost component lowers its imports \
                                 before it lifts anything"
                                    .into(),
                            ));
                        }
                        _ => {}
                    }
                }
            }
            _ => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.see(payload)?;
                }
            }
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        let outer = |scopes: &[Scope], count: u32| {
            let count = usize::try_from(count).ok()?;
            scopes.len().checked_sub(count + 1)
        };
        let (is_component, made) = match *alias {
            ComponentAlias::InstanceExport { kind, .. } => match kind {
                ComponentExternalKind::Component => (true, None),
                ComponentExternalKind::Module => (false, None),
                _ => return,
            },
            ComponentAlias::Outer { kind, count, index } => {
                let scope = outer(&self.scopes, count).map(|at| &self.scopes[at]);
                match kind {
                    ComponentOuterAliasKind::Component => {
                        (true, scope.and_then(|s| known(&s.components, index)))
                    }
                    ComponentOuterAliasKind::CoreModule => {
                        (false, scope.and_then(|s| known(&s.modules, index)))
                    }
                    _ => return,
                }
            }
            ComponentAlias::CoreInstanceExport { .. } => return,
        };
        if let Some(scope) = self.scopes.last_mut() {
            let all = match is_component {
                true => &mut scope.components,
                false => &mut scope.modules,
            };
            all.push(made);
        }
    }
}

impl Scope {
    /// What stands in this component itself.
    fn see(&mut self, payload: &Payload<'_>) -> Result<(), AdmitError> {
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section.clone() {
                    match import.map_err(|error| invalid(&error))?.ty {
                        ComponentTypeRef::Component(_) => self.components.push(None),
                        ComponentTypeRef::Module(_) => self.modules.push(None),
                        _ => {}
                    }
                }
            }
            // What is exported has another index from then on.
            Payload::ComponentExportSection(section) => {
                for export in section.clone() {
                    let export = export.map_err(|error| invalid(&error))?;
                    match export.kind {
                        ComponentExternalKind::Component => {
                            self.components.push(known(&self.components, export.index));
                        }
                        ComponentExternalKind::Module => {
                            self.modules.push(known(&self.modules, export.index));
                        }
                        _ => {}
                    }
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section.clone() {
                    if let Instance::Instantiate { module_index, .. } =
                        instance.map_err(|error| invalid(&error))?
                    {
                        let made = instantiated(&self.modules, module_index)?;
                        self.made = self.made.with(made)?;
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section.clone() {
                    if let ComponentInstance::Instantiate {
                        component_index, ..
                    } = instance.map_err(|error| invalid(&error))?
                    {
                        let made = instantiated(&self.components, component_index)?;
                        let one = Made {
                            components: 1,
                            ..Made::default()
                        };
                        self.made = self.made.with(made)?.with(one)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Validates, counts and measures; gives the names of imports and exports.
fn measure(
    validator: &mut Validator,
    bytes: &[u8],
) -> Result<(Types, Vec<String>, Vec<String>), AdmitError> {
    let mut allocations = FuncValidatorAllocations::default();
    let (mut modules, mut functions) = (0_u32, 0_u64);
    let (mut memories, mut tables) = (0_u64, 0_u64);
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // Names of the outermost component alone: depth 1 is inside it.
    let mut depth = 0_u32;
    let mut instances = Instances::default();
    let mut types = None;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| invalid(&error))?;
        match &payload {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if *encoding == Encoding::Component {
                    bounded(
                        "components inside each other",
                        depth.into(),
                        limits::MAX_NESTING.into(),
                    )?;
                }
                if *encoding == Encoding::Module {
                    if depth == 1 {
                        return Err(AdmitError::Invalid(
                            "it is a core module; wit-component makes a component of it".into(),
                        ));
                    }
                    modules += 1;
                    bounded(
                        "core modules",
                        modules.into(),
                        limits::MAX_CORE_MODULES as u64,
                    )?;
                }
            }
            Payload::End(_) => depth -= 1,
            Payload::FunctionSection(section) => {
                functions += u64::from(section.count());
                bounded("functions", functions, limits::MAX_FUNCTIONS as u64)?;
            }
            Payload::MemorySection(section) => {
                for memory in section.clone() {
                    let pages = memory.map_err(|error| invalid(&error))?.initial;
                    memories += 1;
                    bounded("memories", memories, limits::MAX_MEMORIES as u64)?;
                    bounded(
                        "initial memory pages",
                        pages,
                        (limits::MAX_MEMORY_BYTES >> 16) as u64,
                    )?;
                }
            }
            Payload::TableSection(section) => {
                for table in section.clone() {
                    let elements = table.map_err(|error| invalid(&error))?.ty.initial;
                    tables += 1;
                    bounded("tables", tables, limits::MAX_TABLES as u64)?;
                    bounded(
                        "initial table elements",
                        elements,
                        limits::MAX_TABLE_ELEMENTS as u64,
                    )?;
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.clone() {
                    imports.push(import.map_err(|error| invalid(&error))?.name.name.into());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.clone() {
                    exports.push(export.map_err(|error| invalid(&error))?.name.name.into());
                }
            }
            _ => {}
        }
        instances.see(&payload)?;
        match validator
            .payload(&payload)
            .map_err(|error| invalid(&error))?
        {
            ValidPayload::Func(function, body) => {
                let index = function.index;
                let over = |what, found: u64, limit: u64| {
                    if found <= limit {
                        return Ok(());
                    }
                    Err(AdmitError::Function {
                        module: modules - 1,
                        function: index,
                        what,
                        found,
                        limit,
                    })
                };
                let length = body.range().len() as u64;
                over("bytes of code", length, limits::MAX_FUNCTION_BYTES as u64)?;
                let mut function = function.into_validator(allocations);
                let values =
                    greatest_height(&mut function, &body).map_err(|error| invalid(&error))?;
                over(
                    "parameters, locals and operands",
                    values,
                    limits::MAX_FUNCTION_VALUES.into(),
                )?;
                allocations = function.into_allocations();
            }
            ValidPayload::End(found) => types = Some(found),
            ValidPayload::Ok | ValidPayload::Parser(_) => {}
        }
    }
    let types = types.ok_or_else(|| AdmitError::Invalid("it ends too early".into()))?;
    Ok((types, imports, exports))
}

/// Parameters, locals and the greatest number of operands: what a frame of the
/// native stack may have to hold.
fn greatest_height<R: wasmparser::WasmModuleResources>(
    function: &mut wasmparser::FuncValidator<R>,
    body: &wasmparser::FunctionBody<'_>,
) -> Result<u64, BinaryReaderError> {
    let mut reader = body.get_binary_reader();
    function.read_locals(&mut reader)?;
    let mut operators = body.get_binary_reader_for_operators()?;
    let mut operands = 0;
    while !operators.eof() {
        let offset = operators.original_position();
        operators.visit_operator(&mut function.visitor(offset))??;
        operands = operands.max(function.operand_stack_height());
    }
    operators.finish_expression(&function.visitor(operators.original_position()))?;
    Ok(u64::from(function.len_locals()) + u64::from(operands))
}

/// The largest world, whose imports and exports all others are made of.
struct Contract<'a> {
    types: TypesRef<'a>,
    world: &'a ComponentType,
}

impl<'a> Contract<'a> {
    fn new(types: &'a Types) -> Self {
        let types = types.as_ref();
        let world = find_world(types)
            .and_then(|id| types.get(id))
            .expect("the contract is encoded by the compiler of this crate");
        Self { types, world }
    }

    /// What the bundle imports, as `interface.function`.
    fn check_imports(
        &self,
        bundle: &Types,
        names: &[String],
        findings: &mut Vec<AdmitError>,
    ) -> Vec<String> {
        let mut functions = Vec::new();
        for name in names {
            let unknown = |import: String| AdmitError::UnknownImport { import };
            let (Some(wanted), Some(given)) = (
                self.world.imports.get(name).map(|item| item.ty),
                bundle.component_item_for_import(name).map(|item| item.ty),
            ) else {
                findings.push(unknown(name.clone()));
                continue;
            };
            let bundle = bundle.as_ref();
            let before = findings.len();
            if let (ComponentEntityType::Instance(wanted), ComponentEntityType::Instance(given)) =
                (wanted, given)
            {
                let (wanted, given) = (&self.types[wanted], &bundle[given]);
                for (function, item) in &given.exports {
                    if !wanted.exports.contains_key(function) {
                        findings.push(unknown(format!("{name}#{function}")));
                    } else if matches!(item.ty, ComponentEntityType::Func(_)) {
                        functions.push(format!("{}.{function}", interface(name)));
                    }
                }
            }
            if findings.len() > before {
                continue;
            }
            let compared = SubtypeCx::new_with_refs(self.types, bundle)
                .component_entity_type(&wanted, &given, 0);
            findings.extend(compared.err().map(|error| AdmitError::ImportType {
                import: name.clone(),
                reason: one_line(&error),
            }));
        }
        functions
    }

    /// Whether the bundle has a server, a client and an e-cash part.
    fn check_exports(
        &self,
        bundle: &Types,
        names: &[String],
        findings: &mut Vec<AdmitError>,
    ) -> (bool, bool, bool) {
        for name in names {
            let (Some(wanted), Some(given)) = (
                self.world.exports.get(name).map(|item| item.ty),
                bundle.component_item_for_export(name).map(|item| item.ty),
            ) else {
                findings.push(AdmitError::UnknownExport {
                    export: name.clone(),
                });
                continue;
            };
            let compared = SubtypeCx::new_with_refs(bundle.as_ref(), self.types)
                .component_entity_type(&given, &wanted, 0);
            findings.extend(compared.err().map(|error| AdmitError::ExportType {
                export: name.clone(),
                reason: one_line(&error),
            }));
        }
        let has = |interface_name: &str| names.iter().any(|name| interface(name) == interface_name);
        let (server, client, ecash) = (has("server"), has("client"), has("ecash"));
        for (missing, export, reason) in [
            (
                !has("module-info"),
                "module-info",
                "every module says what it is",
            ),
            (
                !server && !client,
                "server",
                "a module has a server or a client or both",
            ),
            (
                ecash && !client,
                "client",
                "who exports ecash exports client too",
            ),
            (
                ecash && !server,
                "server",
                "who exports ecash exports server too",
            ),
        ] {
            if missing {
                findings.push(AdmitError::MissingExport {
                    export: export.into(),
                    reason,
                });
            }
        }
        (server, client, ecash)
    }
}

/// The world's type lies in a component that exports nothing else, in one more.
fn find_world(types: TypesRef<'_>) -> Option<ComponentTypeId> {
    let count = types.component_type_count();
    (0..count).find_map(|index| match types.component_any_type_at(index) {
        ComponentAnyTypeId::Component(outer) => {
            types
                .get(outer)?
                .exports
                .values()
                .find_map(|item| match item.ty {
                    ComponentEntityType::Component(world) => Some(world),
                    ComponentEntityType::Type {
                        referenced: ComponentAnyTypeId::Component(world),
                        ..
                    } => Some(world),
                    _ => None,
                })
        }
        _ => None,
    })
}

/// `storage` of `modmint:module/storage@0.1.0`.
fn interface(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    name.split('@').next().unwrap_or(name)
}

fn one_line(error: &BinaryReaderError) -> String {
    let mut line = String::new();
    for part in error
        .message()
        .split('\n')
        .map(str::trim)
        .filter(|p| !p.is_empty())
    {
        let separator = if line.is_empty() { "" } else { ", " };
        let _ = write!(line, "{separator}{part}");
    }
    line
}

/// What imports allow, for an operator. In the contract's order.
const CAPABILITIES: &[(&[&str], &str)] = &[
    (
        &["storage.get", "storage.scan"],
        "read what it has stored itself",
    ),
    (&["storage.put", "storage.delete"], "store data of its own"),
    (
        &[
            "federation.id",
            "federation.network",
            "federation.peers",
            "federation.threshold",
            "federation.config",
            "federation.public-keys",
        ],
        "know the federation's public keys and its own configuration",
    ),
    (
        &[
            "federation.block-height",
            "federation.block-hash",
            "federation.fee-rate",
            "federation.unix-time",
        ],
        "know the agreed block height, hashes, fee rate and time",
    ),
    (
        &["federation.chain-output-at", "federation.chain-outputs"],
        "look up agreed outputs of the bitcoin chain",
    ),
    (
        &[
            "crypto.sha256",
            "crypto.verify-schnorr",
            "crypto.verify-ecdsa",
            "crypto.tweak-public-key",
            "crypto.tbs-verify",
            "crypto.tpe-verify",
            "crypto.tpe-decrypt",
        ],
        "hash, and check signatures and ciphertexts",
    ),
    (
        &["signing.approve", "signing.revoke"],
        "have guardians sign or decrypt with the keys that were made for it",
    ),
    (
        &["treasury.claim", "treasury.release"],
        "hold bitcoin for the federation and pay it out",
    ),
    (
        &["guardian.shares"],
        "hand out this guardian's shares of what consensus has approved",
    ),
    (&["guardian.whoami"], "know which guardian it runs on"),
    (
        &[
            "guardian.chain",
            "guardian.confirmed-at",
            "guardian.missing",
        ],
        "know this guardian's own view of the bitcoin chain",
    ),
    (
        &[
            "wallet-host.derive-secret",
            "wallet-host.derive-public-key",
            "wallet-host.sign-schnorr",
        ],
        "use secrets of its own from the wallet's seed",
    ),
    (
        &[
            "wallet-host.tbs-blind",
            "wallet-host.tbs-unblind",
            "wallet-host.tpe-encrypt",
            "wallet-host.tpe-combine",
        ],
        "blind, unblind and encrypt in the wallet",
    ),
    (&["wallet-host.random"], "draw random numbers in the wallet"),
    (&["wallet-host.unix-time"], "read the wallet's clock"),
    (&["wallet-host.invite"], "read the federation's invite"),
    (&["log.log"], "write to the log"),
];

fn capabilities(imported: &[String]) -> Vec<String> {
    debug_assert!(
        imported
            .iter()
            .all(|name| IMPORTS.iter().any(|import| import.name == name))
    );
    CAPABILITIES
        .iter()
        .filter(|(functions, _)| imported.iter().any(|name| functions.contains(&&**name)))
        .map(|(_, words)| (*words).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every function that the contract lets a module import, in whatever version.
    fn functions_of_the_contract() -> Vec<String> {
        let mut functions = BTreeSet::new();
        for version in ContractVersion::ALL {
            let types = Validator::new_with_features(FEATURES)
                .validate_all(version.component_type())
                .expect("valid");
            let contract = Contract::new(&types);
            for (name, item) in &contract.world.imports {
                let ComponentEntityType::Instance(instance) = item.ty else {
                    panic!("{name} is no interface");
                };
                for (function, item) in &contract.types[instance].exports {
                    if matches!(item.ty, ComponentEntityType::Func(_)) {
                        functions.insert(format!("{}.{function}", interface(name)));
                    }
                }
            }
        }
        functions.into_iter().collect()
    }

    #[test]
    fn every_import_of_the_contract_has_a_price_and_a_phase() {
        let mut priced: Vec<_> = IMPORTS
            .iter()
            .map(|import| import.name.to_owned())
            .collect();
        priced.sort();
        assert_eq!(priced, functions_of_the_contract());
    }

    #[test]
    fn every_import_of_the_contract_is_told_in_words() {
        let mut told: Vec<_> = CAPABILITIES
            .iter()
            .flat_map(|(functions, _)| functions.iter().map(|name| (*name).to_owned()))
            .collect();
        told.sort();
        assert_eq!(told, functions_of_the_contract());
    }
}
