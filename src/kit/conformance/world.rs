//! A scenario, played: the bundle under test in a mock federation with real keys.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use anyhow::{Context, Result, anyhow, bail, ensure};
use modmint_core::{Argument, Parameter};
use modmint_runtime::Bundle;
use modmint_sdk::{
    Item, Refusal,
    mock::{Federation, Kill, OperationId, RecordedCall, Wallet},
};

use super::{
    outside::{Kept, Outside, invoice, resolve, text},
    scenario::{Scenario, Step, Typed},
};
use crate::kit::{
    Setting,
    component::{Component, shapes},
};

/// So many answers in a row no machine needs; one that asks for ever is found out.
const MOST_STEPS: u32 = 10_000;

/// A wallet that is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death<'a> {
    /// Which.
    pub(super) wallet: &'a str,
    /// Behind which write of the module's operations, counted from 1, and whether what it
    /// promised was sent.
    pub(super) kill: Kill,
    /// The bundle that everybody goes on with.
    pub(super) next: Option<&'a Arc<Bundle>>,
}

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Millisatoshi in each wallet.
    pub(super) balances: BTreeMap<String, u64>,
    /// How operations ended: the code of a refusal, nothing where it goes on.
    pub(super) operations: Vec<Option<Result<(), String>>>,
    /// What each instance was paid, less what it paid; and the bitcoin that it holds.
    pub(super) books: Vec<(i128, i128)>,
}

/// The federation that a scenario is played in.
pub(super) struct World<'a> {
    scenario: &'a Scenario,
    pub(super) federation: Federation,
    pub(super) component: Component,
    /// The bundle's instance.
    pub(super) instance: u16,
    /// By kind: the instance and its actions.
    modules: BTreeMap<String, (u16, Arc<Bundle>)>,
    pub(super) wallets: BTreeMap<String, Wallet>,
    /// Writes of each wallet before it did anything of the scenario.
    first_writes: BTreeMap<String, u64>,
    kept: Rc<RefCell<Kept>>,
    outside: Rc<RefCell<Outside>>,
    begun: Vec<(String, OperationId)>,
    /// Whether the mock's money is in it.
    cash: bool,
}

impl<'a> World<'a> {
    /// Founds it; `record`: with consensus calls written down.
    ///
    /// # Errors
    /// The configuration fits no parameter.
    pub(super) fn found(
        scenario: &'a Scenario,
        bundle: &Arc<Bundle>,
        beside: &[Arc<Bundle>],
        record: bool,
    ) -> Result<Self> {
        let cash = !bundle.has_ecash() && !beside.iter().any(|bundle| bundle.has_ecash());
        let guardians = usize::from(scenario.guardians);
        let federation = match cash {
            true => Federation::with_cash(guardians),
            false => Federation::new(guardians),
        };
        if !cash {
            // As components reckon it: they cannot be told that they are tested.
            federation.set_filter_bits(12);
        }
        if record {
            federation.record();
        }
        let mut modules = BTreeMap::new();
        for other in beside {
            let kind = other.description().kind.clone();
            let instance = federation.found(Component::new(other.clone()).bundle(), Vec::new());
            modules.insert(kind, (instance, other.clone()));
        }
        let arguments = arguments(
            &scenario.configuration,
            &bundle.description().configuration,
            &Kept::new(),
        );
        let arguments = shapes::to_arguments(arguments.context("configuration")?);
        let component = Component::new(bundle.clone());
        let instance = federation.found(component.bundle(), arguments);
        let kind = bundle.description().kind.clone();
        modules.insert(kind, (instance, bundle.clone()));
        let kept = Rc::<RefCell<Kept>>::default();
        let outside = Outside::new(federation.clone(), Rc::clone(&kept));
        Ok(Self {
            scenario,
            federation,
            component,
            instance,
            modules,
            wallets: BTreeMap::new(),
            first_writes: BTreeMap::new(),
            kept,
            outside: Rc::new(RefCell::new(outside)),
            begun: Vec::new(),
            cash,
        })
    }

    /// Plays all of it. The books are looked at behind each step.
    ///
    /// # Errors
    /// Something else comes of a step than the scenario says, or the books are not even.
    pub(super) fn play(&mut self, death: Option<Death<'_>>) -> Result<End> {
        for (number, step) in (1..).zip(&self.scenario.steps) {
            let before = self.begun.len();
            let taken = caught(|| {
                self.step(step, death)?;
                self.settle(death)?;
                self.ended(step, before)?;
                self.look_at_the_books()
            });
            taken.with_context(|| format!("step {number}"))?;
        }
        Ok(self.end())
    }

    fn step(&mut self, step: &Step, death: Option<Death<'_>>) -> Result<()> {
        if let Some(blocks) = step.mine {
            self.federation.mine_blocks(blocks);
        }
        if let Some(seconds) = step.pass {
            self.federation.pass(seconds);
        }
        if let (Some(to), Some(satoshi)) = (&step.pay, step.satoshi) {
            let script = script(&resolve(to, &self.kept.borrow())?)?;
            self.federation.mine(&[(script, satoshi)]);
        }
        if let (Some(made), None) = (&step.invoice, &step.answer) {
            let made_of = invoice(made, &self.kept.borrow(), self.federation.time())?;
            self.kept.borrow_mut().insert(made.name.clone(), made_of);
        }
        if let Some(asked) = &step.answer {
            self.outside.borrow_mut().answers(asked, step);
            for wallet in self.wallets.values_mut() {
                Outside::offer(&self.outside, wallet);
            }
        }
        let (Some(name), Some(action)) = (&step.wallet, &step.action) else {
            return Ok(());
        };
        let kind = step.of.clone();
        let own = self.component_kind();
        let kind = kind.unwrap_or(own);
        let (instance, bundle) = self.modules.get(&kind).with_context(|| {
            let known: Vec<_> = self.modules.keys().map(String::as_str).collect();
            format!("{kind:?} is none of: {}", known.join(", "))
        })?;
        let known = bundle.actions().iter().find(|known| known.name == *action);
        let parameters = &known
            .with_context(|| format!("{kind} has no action {action:?}"))?
            .parameters;
        let arguments = arguments(&step.with, parameters, &self.kept.borrow())?;
        let arguments = shapes::to_arguments(arguments);
        let instance = *instance;
        self.meet(name, death);
        let wallet = self.wallets.get_mut(name).context("it was just met")?;
        match wallet.start(instance, action, arguments) {
            Ok(operation) => self.begun.push((name.clone(), operation)),
            Err(refusal) if step.refused.as_ref() == Some(&refusal.code) => {}
            Err(refusal) => bail!("refused: {} ({})", refusal.message, refusal.code),
        }
        Ok(())
    }

    fn component_kind(&self) -> String {
        let own = self.modules.iter().find(|(_, (i, _))| *i == self.instance);
        own.map(|(kind, _)| kind.clone()).unwrap_or_default()
    }

    fn meet(&mut self, name: &str, death: Option<Death<'_>>) {
        if self.wallets.contains_key(name) {
            return;
        }
        let mut wallet = Wallet::new(&self.federation, name);
        if self.cash && self.scenario.money > 0 {
            wallet.endow(self.scenario.money);
        }
        Outside::offer(&self.outside, &mut wallet);
        let first = wallet.writes();
        if let Some(death) = death.filter(|death| death.wallet == name) {
            wallet.kill_at(Kill {
                after: first + death.kill.after,
                ..death.kill
            });
        }
        self.first_writes.insert(name.to_owned(), first);
        self.wallets.insert(name.to_owned(), wallet);
    }

    /// Everybody carries on until there is nothing to do but wait.
    fn settle(&mut self, death: Option<Death<'_>>) -> Result<()> {
        // Each round follows from what the one before decided; modules that never come
        // to rest are found out.
        for _ in 0..1000 {
            let (mut moved, mut died) = (false, false);
            for wallet in self.wallets.values_mut() {
                let mut steps = 0;
                while wallet.step() {
                    moved = true;
                    steps += 1;
                    ensure!(steps < MOST_STEPS, "a wallet's machine never comes to rest");
                }
                died |= wallet.is_dead();
            }
            if died {
                if let Some(next) = death.and_then(|death| death.next) {
                    self.upgrade(next)?;
                }
                let dead = self.wallets.values_mut().filter(|wallet| wallet.is_dead());
                dead.for_each(Wallet::resume);
                moved = true;
            }
            moved |= self.federation.order_proposals() > 0;
            if !moved {
                return Ok(());
            }
        }
        bail!("the wallets and guardians never come to rest")
    }

    /// Everybody goes on with another bundle. Storage of another version is migrated
    /// first, the guardians' and each wallet's; a machine's state never is.
    fn upgrade(&mut self, next: &Arc<Bundle>) -> Result<()> {
        let before = self.component.bundle().describe();
        self.component.replace(next.clone());
        let after = next.description();
        let refused = |whose: &str, from: u32, refusal: Refusal| {
            let Refusal { code, message } = refusal;
            anyhow!("{whose} storage of version {from} is refused: {message} ({code})")
        };
        let from = before.server_storage;
        if from != after.server_storage {
            let migrated = self.federation.migrate(self.instance, from);
            migrated.map_err(|refusal| refused("the guardians'", from, refusal))?;
        }
        let from = before.client_storage;
        if from != after.client_storage {
            for (name, wallet) in &mut self.wallets {
                let migrated = wallet.migrate(self.instance, from);
                migrated.map_err(|refusal| refused(&format!("{name}'s"), from, refusal))?;
            }
        }
        Ok(())
    }

    /// What the last step's operation came to is what the scenario says.
    fn ended(&mut self, step: &Step, before: usize) -> Result<()> {
        if let (Some(name), Some(satoshi)) = (&step.wallet, step.balance) {
            let wallet = self.wallets.get(name);
            let wallet = wallet.with_context(|| format!("{name:?} has done nothing before"))?;
            let msat = wallet.balance();
            ensure!(
                u128::from(msat) == u128::from(satoshi) * 1000,
                "{name} has {msat} msat, not {satoshi} sat"
            );
        }
        let Some((name, operation)) = self.begun.get(before) else {
            return Ok(());
        };
        let wallet = &self.wallets[name];
        let operation = wallet.operation(*operation);
        match (operation.finished(), &step.refused) {
            (Some(Err(refusal)), Some(code)) if refusal.code == *code => {}
            (Some(Err(refusal)), _) => {
                bail!("it ends refused: {} ({})", refusal.message, refusal.code)
            }
            (_, Some(code)) => bail!("it is not refused with {code:?}"),
            _ => {}
        }
        for (kept, detail) in &step.keep {
            let value = operation.detail(detail).with_context(|| {
                format!("there is no detail {detail:?} in {}", operation.details())
            })?;
            self.kept.borrow_mut().insert(kept.clone(), value);
        }
        Ok(())
    }

    /// No instance owes more than the books say that it was paid.
    fn look_at_the_books(&self) -> Result<()> {
        let lines = self.federation.audit(self.instance);
        let owed: i128 = lines.iter().map(|line| -i128::from(line.msat)).sum();
        let (balance, held) = self.federation.books(self.instance);
        ensure!(
            owed <= balance && balance + held >= 0,
            "`audit` says that {owed} msat more is owed than is there, the books say {balance}"
        );
        Ok(())
    }

    fn end(&self) -> End {
        let wallets = self.wallets.iter();
        let ended = |(name, operation): &(String, OperationId)| {
            let finished = self.wallets[name].operation(*operation).finished()?;
            Some(finished.map_err(|refusal| refusal.code))
        };
        End {
            balances: wallets.map(|(n, w)| (n.clone(), w.balance())).collect(),
            operations: self.begun.iter().map(ended).collect(),
            books: (0..=self.instance)
                .map(|instance| self.federation.books(instance))
                .collect(),
        }
    }

    /// What people are shown of one of the module's own items, an outcome or an answer.
    ///
    /// # Errors
    /// It refuses, traps, or makes no JSON.
    pub(super) fn show(&self, item: Item, bytes: Vec<u8>) -> Result<serde_json::Value> {
        let told = format!("{item:?} {}", modmint_sdk::to_hex(&bytes));
        let rendered = caught(|| Ok(self.federation.render(self.instance, item, bytes)));
        match rendered.with_context(|| told.clone())? {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{told} is shown as something that is no JSON")),
            Err(refusal) => bail!("{told}: {} ({})", refusal.message, refusal.code),
        }
    }

    /// How often each wallet wrote for the scenario.
    pub(super) fn writes(&self) -> BTreeMap<String, u64> {
        let wallets = self.wallets.iter();
        wallets
            .map(|(name, wallet)| (name.clone(), wallet.writes() - self.first_writes[name]))
            .collect()
    }

    /// The bundle's consensus calls.
    pub(super) fn recorded(&self) -> Vec<RecordedCall> {
        let mut calls = self.federation.recorded();
        calls.retain(|call| call.instance == self.instance);
        calls
    }
}

fn arguments(
    typed: &BTreeMap<String, Typed>,
    parameters: &[Parameter],
    kept: &Kept,
) -> Result<Vec<Argument>> {
    let argument = |(name, value): (&String, &Typed)| {
        Setting::new(name, &text(value, kept)?).argument(parameters)
    };
    typed.iter().map(argument).collect()
}

/// Of an address, or written in hexadecimal.
fn script(text: &str) -> Result<Vec<u8>> {
    if let Ok((_, version, program)) = bech32::segwit::decode(text) {
        let version = match version.to_u8() {
            0 => 0,
            version => 0x50 + version,
        };
        let length = u8::try_from(program.len())?;
        return Ok([&[version, length], &program[..]].concat());
    }
    modmint_core::decode_hex(text)
        .map_err(|error| anyhow!("{text:?} is neither a segwit address nor a script: {error}"))
}

/// Runs what may trap; the trap's text.
pub(super) fn caught<T>(what: impl FnOnce() -> Result<T>) -> Result<T> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
    caught.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Err(anyhow!("{}", text.unwrap_or("a trap")))
    })
}
