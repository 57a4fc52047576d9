//! How deep calls go, counted in the guest itself.
//!
//! How much native stack a call takes is the compiler's secret, so an overflow of it
//! is nothing that guardians agree on. A function's code says how much it can be at most:
//! what it computes is what a frame may have to hold. So every core module is given a
//! counter of what the calls that it is in weigh, each as much as [`frame_units`] of the
//! function that makes it, and traps beyond [`MAX_STACK_UNITS`]: a rule of the bytes alone,
//! the same everywhere. The bundle's hash is that of the bytes before.
//!
//! ```text
//! (if (i32.gt_u (global.get $depth) (i32.const MAX_STACK_UNITS - units)) (then unreachable))
//! (global.set $depth (i32.add (global.get $depth) (i32.const units)))
//! (call $f …)
//! (global.set $depth (i32.sub (global.get $depth) (i32.const units)))
//! ```
//!
//! A call that traps ends its instance, so nothing is left to be counted down.

use std::{borrow::Cow, convert::Infallible};

use wasm_encoder::{
    BlockType, CodeSection, Component, ConstExpr, GlobalSection, GlobalType, Instruction, Module,
    RawSection, SectionId, ValType,
    reencode::{Error, Reencode, utils},
};
use wasmparser::{Encoding, FunctionBody, GlobalSectionReader, Operator, Parser, Payload, TypeRef};

use crate::limits::{MAX_STACK_UNITS, frame_units};

/// The same component, with counters.
///
/// # Errors
/// It is none.
pub(crate) fn counted(bytes: &[u8]) -> Result<Vec<u8>, String> {
    component(bytes, 0).map_err(|error| error.to_string())
}

/// `bytes` begin at `offset` of what the parser's ranges are counted in.
fn component(bytes: &[u8], offset: usize) -> Result<Vec<u8>, Error> {
    let mut counted = Component::new();
    // Sections of what is nested belong to what they are in.
    let mut depth = 0_u32;
    for payload in Parser::new(offset as u64).parse_all(bytes) {
        let payload = payload?;
        match &payload {
            Payload::Version { .. } => {
                depth += 1;
                continue;
            }
            Payload::End(_) => {
                depth -= 1;
                continue;
            }
            _ if depth > 1 => continue,
            _ => {}
        }
        let Some((id, range)) = payload.as_section() else {
            continue;
        };
        let section = &bytes[range.start - offset..range.end - offset];
        let data: Cow<'_, [u8]> = match &payload {
            Payload::ModuleSection { .. } => module(section)?.into(),
            Payload::ComponentSection { .. } => component(section, range.start)?.into(),
            _ => section.into(),
        };
        counted.section(&RawSection { id, data: &data });
    }
    Ok(counted.finish())
}

fn module(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut globals = 0;
    let mut code = false;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => return Err(Error::UnexpectedNonCoreModuleSection),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    globals += u32::from(matches!(import?.ty, TypeRef::Global(_)));
                }
            }
            Payload::GlobalSection(section) => globals += section.count(),
            Payload::CodeSectionStart { .. } => code = true,
            _ => {}
        }
    }
    if !code {
        return Ok(bytes.to_vec());
    }
    let mut counter = Counter {
        global: globals,
        declared: false,
    };
    let mut module = Module::new();
    counter.parse_core_module(&mut module, Parser::new(0), bytes)?;
    Ok(module.finish())
}

/// Rewrites a core module.
struct Counter {
    /// The index of the counter, behind all other globals.
    global: u32,
    declared: bool,
}

impl Counter {
    fn declare(&mut self, globals: &mut GlobalSection) {
        self.declared = true;
        globals.global(
            GlobalType {
                val_type: ValType::I32,
                mutable: true,
                shared: false,
            },
            &ConstExpr::i32_const(0),
        );
    }

    fn change(&self, units: u32, by: Instruction<'static>) -> [Instruction<'static>; 4] {
        [
            Instruction::GlobalGet(self.global),
            Instruction::I32Const(units.cast_signed()),
            by,
            Instruction::GlobalSet(self.global),
        ]
    }
}

impl Reencode for Counter {
    type Error = Infallible;

    fn parse_global_section(
        &mut self,
        globals: &mut GlobalSection,
        section: GlobalSectionReader<'_>,
    ) -> Result<(), Error> {
        utils::parse_global_section(self, globals, section)?;
        self.declare(globals);
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        _after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<(), Error> {
        let behind_globals = matches!(
            before,
            Some(
                SectionId::Export
                    | SectionId::Start
                    | SectionId::Element
                    | SectionId::DataCount
                    | SectionId::Code
            )
        );
        if behind_globals && !self.declared {
            let mut globals = GlobalSection::new();
            self.declare(&mut globals);
            module.section(&globals);
        }
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Error> {
        let units = frame_units(body.range().len());
        let most = MAX_STACK_UNITS.saturating_sub(units);
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            let calls = matches!(
                operator,
                Operator::Call { .. } | Operator::CallIndirect { .. }
            );
            let instruction = self.instruction(operator)?;
            if !calls {
                function.instruction(&instruction);
                continue;
            }
            for check in [
                Instruction::GlobalGet(self.global),
                Instruction::I32Const(most.cast_signed()),
                Instruction::I32GtU,
                Instruction::If(BlockType::Empty),
                Instruction::Unreachable,
                Instruction::End,
            ] {
                function.instruction(&check);
            }
            for up in self.change(units, Instruction::I32Add) {
                function.instruction(&up);
            }
            function.instruction(&instruction);
            for down in self.change(units, Instruction::I32Sub) {
                function.instruction(&down);
            }
        }
        code.function(&function);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wasmparser::{Validator, WasmFeatures};

    use super::*;

    fn text(wat: &str) -> Vec<u8> {
        wat::parse_str(wat).expect("well-formed")
    }

    #[test]
    fn what_was_valid_stays_valid_with_and_without_globals_of_its_own() {
        for wat in [
            "(component (core module (func $f (call $f))))",
            "(component (core module (global i32 (i32.const 1)) (func $f (call $f))))",
            r#"(component (core module
                (import "a" "b" (global i32)) (import "a" "c" (func $g (param i32) (result i64)))
                (table 1 funcref) (elem (i32.const 0) $g) (memory 1) (data "x")
                (func (export "f") (result i64) (call $g (global.get 0)))
                (func (result i64) (call_indirect (param i32) (result i64)
                    (i32.const 1) (i32.const 0)))))"#,
            r#"(component (core module (memory (export "m") 1)))"#,
            "(component (component (core module (func $f (call $f)))) (core module))",
        ] {
            let counted = counted(&text(wat)).expect("a component");
            let mut validator = Validator::new_with_features(WasmFeatures::all());
            validator.validate_all(&counted).expect("it is still one");
            let calls = wat.matches("(call").count();
            let printed = format!("{counted:?}");
            // `i32.gt_u`, `if`, `unreachable`, `end`, once for each call.
            let check = [0x4b, 0x04, 0x40, 0x00, 0x0b];
            let found = counted.windows(5).filter(|bytes| *bytes == check).count();
            assert_eq!(found, calls, "{wat}: {printed}");
        }
    }

    #[test]
    fn the_same_bytes_come_out_each_time() {
        let component = text("(component (core module (func $f (call $f))))");
        assert_eq!(counted(&component), counted(&component));
        assert!(counted(b"\0asm").is_err());
    }
}
