//! What is printed: for people, or as JSON.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use modmint_client::{
    Federation, GuardianView, ModuleView, OperationStatus, OperationView, SpendQuote, WalletError,
    guardians::FederationView,
};
use modmint_core::Amount;
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde_json::{Value, json};

use crate::{Manner, exit::Exit};

/// Text from the network without what would move the cursor.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Standard output and standard error.
#[derive(Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// The result: `document`, or what `people` prints.
    pub fn print(&self, document: &Value, people: impl FnOnce()) {
        if self.json {
            // A reader that has gone away wants nothing more.
            let _ = writeln!(std::io::stdout(), "{document:#}");
        } else {
            people();
        }
    }

    /// Something on the way, to standard error.
    pub fn message(&self, document: &Value, text: &str) {
        let line = if self.json {
            document.to_string()
        } else {
            clean(text)
        };
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    pub fn error(&self, code: &str, message: &str) {
        if self.json {
            let document = json!({ "error": { "code": code, "message": message } });
            let _ = writeln!(std::io::stdout(), "{document:#}");
        } else {
            let _ = writeln!(std::io::stderr(), "{} ({})", clean(message), clean(code));
        }
    }

    pub fn wallet_error(&self, error: &WalletError) -> Exit {
        match error {
            WalletError::ConfirmationNeeded(quote) => self.confirmation_needed(quote, None),
            WalletError::Refused(refusal) | WalletError::InsufficientFunds(refusal) => {
                self.error(&refusal.code, &refusal.message);
            }
            error => self.error(error.code(), &error.to_string()),
        }
        error.into()
    }

    /// A spend that nobody has confirmed.
    pub fn confirmation_needed(&self, quote: &SpendQuote, operation: Option<&OperationView>) {
        let document = json!({
            "error": {
                "code": "confirmation-needed",
                "message": format!("this takes {}; --yes confirms it", quote.total),
            },
            "quote": quote,
            "operation": operation.map(|view| view.operation),
        });
        self.print(&document, || {
            print!("{}", describe_quote(quote));
            println!("Nothing was spent: --yes confirms it.");
        });
    }

    pub fn operations(&self, all: &[OperationView]) {
        self.print(&json!({ "operations": all }), || {
            if all.is_empty() {
                println!("There are no operations.");
            }
            for view in all {
                println!(
                    "{}  {:<8} {:<18} {}",
                    view.operation,
                    status(view),
                    clean(&format!("{} {}", view.kind, view.action)),
                    clean(told(view))
                );
            }
        });
    }

    pub fn operation(&self, view: &OperationView) {
        let document = serde_json::to_value(view).unwrap_or_default();
        self.print(&document, || print!("{}", describe(view)));
    }
}

fn status(view: &OperationView) -> &'static str {
    match view.status {
        OperationStatus::Running if view.resting => "resting",
        OperationStatus::Running => "running",
        OperationStatus::Asking => "asking",
        OperationStatus::Stuck => "stuck",
        OperationStatus::Done => "done",
        OperationStatus::Failed => "failed",
    }
}

/// What there is to say of an operation in one line.
fn told(view: &OperationView) -> &str {
    let error = view.error.as_ref().map(|error| error.message.as_str());
    let obstacle = view.obstacle.as_ref().map(|met| met.message.as_str());
    error
        .or(obstacle)
        .or(view.message.as_deref())
        .unwrap_or_default()
}

pub fn describe_quote(quote: &SpendQuote) -> String {
    let mut text = format!("{}\n", clean(&quote.summary));
    for fee in &quote.fees {
        let _ = writeln!(text, "  {}: {} (included)", clean(&fee.name), fee.amount);
    }
    if quote.federation_fee > Amount::ZERO {
        let _ = writeln!(
            text,
            "  federation fee: {} (included)",
            quote.federation_fee
        );
    }
    let _ = writeln!(text, "  takes from the balance: {}", quote.total);
    text
}

/// The detail whose text is for somebody else's camera: whatever module it is of.
const SCAN: &str = "scan";
/// Black on white whatever the terminal's colours are, and back to these.
const INK: [&str; 2] = ["\x1b[38;5;16;48;5;231m", "\x1b[0m"];

/// What there is to be scanned as a drawing, with a line's end at the end; empty if
/// there is nothing, or more than a code can hold.
fn drawing(view: &OperationView) -> String {
    let details = view.details.as_ref();
    let text = details.and_then(|details| details.get(SCAN)?.as_str());
    let code = text.and_then(|text| QrCode::with_error_correction_level(text, EcLevel::L).ok());
    let Some(code) = code else {
        return String::new();
    };
    let drawn = code.render::<Dense1x2>().build();
    let [ink, end] = INK;
    drawn
        .lines()
        .map(|line| format!("{ink}{line}{end}\n"))
        .collect()
}

fn describe(view: &OperationView) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} {}: {}",
        clean(&view.kind),
        clean(&view.action),
        status(view)
    );
    if let Some(message) = &view.message {
        let _ = writeln!(text, "{}", clean(message));
    }
    text.push_str(&drawing(view));
    if let Some(Value::Object(details)) = &view.details {
        for (name, value) in details.iter().filter(|(name, _)| *name != SCAN) {
            let value = match value {
                Value::String(value) => value.clone(),
                value => value.to_string(),
            };
            let _ = writeln!(text, "  {}: {}", clean(name), clean(&value));
        }
    }
    if view.took_msat != 0 {
        let amount = Amount(view.took_msat.unsigned_abs());
        let what = if view.took_msat > 0 {
            "took from the balance"
        } else {
            "brought into the balance"
        };
        let _ = writeln!(text, "  {what}: {amount}");
    }
    if let Some(quote) = &view.question {
        text.push_str("Waits to be confirmed: ");
        text.push_str(&describe_quote(quote));
    }
    if let Some(error) = &view.error {
        let _ = writeln!(text, "  {} ({})", clean(&error.message), clean(&error.code));
    }
    if let Some(obstacle) = &view.obstacle {
        let _ = writeln!(text, "  waits: {}", clean(&obstacle.message));
    }
    let _ = writeln!(text, "  operation: {}", view.operation);
    text
}

pub fn info(
    federation: &Federation,
    balance: Amount,
    view: &FederationView,
    unreachable: Option<&WalletError>,
    guardians: &[GuardianView],
    modules: &[ModuleView],
) -> String {
    let config = federation.config();
    let mut text = String::new();
    let _ = writeln!(text, "{} ({})", clean(&config.name), federation.id());
    let _ = writeln!(
        text,
        "  network: {}, block {}",
        config.network, view.block_height
    );
    let _ = writeln!(text, "  balance: {balance}");
    if let Some(error) = unreachable {
        let _ = writeln!(text, "  {}", clean(&error.to_string()));
    }
    for guardian in guardians {
        let health = match (&guardian.health.last_error, guardian.health.latency_ms) {
            (Some(error), _) => clean(error),
            (None, Some(latency)) => format!("{latency} ms"),
            (None, None) => "not asked".to_owned(),
        };
        let _ = writeln!(
            text,
            "  guardian {} {} {}: {health}",
            guardian.peer,
            clean(&guardian.name),
            clean(&guardian.api_url)
        );
    }
    for module in modules {
        let _ = writeln!(
            text,
            "  module {}:{} {}: {}",
            clean(&module.kind),
            module.instance,
            clean(&module.version),
            clean(&module.summary)
        );
        if !module.has_client {
            let _ = writeln!(text, "    no wallet half: nothing can be asked of it here");
        }
        for action in &module.actions {
            let _ = writeln!(
                text,
                "    {} {}: {}",
                clean(&module.kind),
                clean(&action.name),
                clean(&action.summary)
            );
        }
    }
    let _ = writeln!(text, "  invite: {}", federation.invite());
    text
}

/// Shows how an operation goes on.
pub struct Report<'a> {
    pub output: &'a Output,
    spinner: ProgressBar,
    shown: Option<Value>,
    /// What is to be scanned is drawn while it is waited for; else with the result.
    draws: bool,
    /// Somebody can be asked.
    pub interactive: bool,
}

impl<'a> Report<'a> {
    pub fn new(output: &'a Output, manner: &Manner) -> Self {
        let terminal = std::io::stderr().is_terminal() && std::io::stdin().is_terminal();
        let target = if output.is_json() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let spinner = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            spinner.set_style(style);
        }
        Self {
            output,
            spinner,
            shown: None,
            draws: !manner.detach,
            interactive: terminal && !output.is_json(),
        }
    }

    /// Says what is new.
    pub fn progress(&mut self, view: &OperationView) {
        let line = json!({
            "operation": view.operation,
            "status": view.status,
            "stage": view.stage,
            "message": view.message,
            "details": view.details,
            "error": view.error,
            "obstacle": view.obstacle,
        });
        let silent = view.stage.is_none() && view.error.is_none() && view.obstacle.is_none();
        if self.shown.as_ref() == Some(&line) || self.shown.is_none() && silent {
            return;
        }
        let former = self.shown.as_ref().map_or(&Value::Null, |s| &s["obstacle"]);
        let met = (*former != line["obstacle"]).then(|| match &view.obstacle {
            Some(obstacle) => format!("waiting: {}", clean(&obstacle.message)),
            None => "enough guardians answer again".to_owned(),
        });
        let message = view.message.as_deref().unwrap_or_default();
        if self.output.is_json() {
            self.output.message(&line, message);
        } else if view.status == OperationStatus::Running {
            self.spinner.enable_steady_tick(Duration::from_millis(120));
            let text = clean(message);
            if let Some(met) = met {
                self.spinner.println(met);
            }
            if !message.is_empty()
                && self.shown.as_ref().map(|shown| &shown["message"]) != Some(&line["message"])
            {
                self.spinner.println(&text);
                if self.draws {
                    self.spinner.println(drawing(view));
                }
            }
            self.spinner
                .set_message(clean(view.stage.as_deref().unwrap_or_default()));
        }
        self.shown = Some(line);
    }

    /// Asks whether a quote is confirmed.
    pub fn ask(&self, quote: &SpendQuote) -> bool {
        self.spinner.suspend(|| {
            let mut err = std::io::stderr();
            let _ = write!(err, "{}Go on? [y/N] ", describe_quote(quote));
            let _ = err.flush();
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer).is_ok()
                && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
        })
    }

    pub fn end(&self) {
        self.spinner.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(details: &Value) -> OperationView {
        let view = json!({
            "operation": "00".repeat(10),
            "federation": "00".repeat(32),
            "kind": "any",
            "instance": 7,
            "action": "ask",
            "status": "running",
            "settling": false,
            "resting": false,
            "created": 0,
            "updated": 0,
            "stage": "waiting",
            "message": "give this to somebody",
            "details": details,
            "took_msat": 0,
            "error": null,
            "question": null,
            "transactions": [],
        });
        serde_json::from_value(view).expect("a view")
    }

    #[test]
    fn what_any_module_gives_to_be_scanned_is_drawn_and_not_told() {
        let shown = describe(&view(&json!({ "scan": "LIGHTNING:LNBC1", "amount": 5 })));
        assert!(shown.contains("amount: 5") && !shown.contains("LNBC1"));
        // 15 characters need a code of 21 modules; with a rim of 4 on each side, and
        // two modules above each other, that is 15 lines of 29.
        let drawn: Vec<_> = shown.lines().filter(|line| line.contains(INK[0])).collect();
        assert_eq!(drawn.len(), 15, "{shown}");
        let ink = INK.map(|code| code.chars().count()).iter().sum::<usize>();
        assert!(drawn.iter().all(|line| line.chars().count() == 29 + ink));

        for details in [json!({ "amount": 5 }), json!({ "scan": 5 }), json!(null)] {
            assert!(!describe(&view(&details)).contains(INK[0]), "{details}");
        }
    }

    /// What a camera sees of it: black ink on white, some dots for each half of a
    /// character.
    fn photograph(drawn: &str) -> (usize, usize, Vec<u8>) {
        const DOTS: usize = 4;
        let line = |line: &str| {
            let line = line.replace(INK[0], "").replace(INK[1], "");
            let halves = |c| match c {
                ' ' => [255, 255],
                '\u{2580}' => [0, 255],
                '\u{2584}' => [255, 0],
                '\u{2588}' => [0, 0],
                c => panic!("{c:?} is no half of a block"),
            };
            let halves: Vec<[u8; 2]> = line.chars().map(halves).collect();
            [0, 1].map(|half| {
                let dots = halves.iter().flat_map(|both| [both[half]; DOTS]);
                dots.collect::<Vec<u8>>()
            })
        };
        let rows: Vec<Vec<u8>> = drawn.lines().flat_map(line).collect();
        let rows: Vec<&Vec<u8>> = rows.iter().flat_map(|row| [row; DOTS]).collect();
        let (width, height) = (rows[0].len(), rows.len());
        (width, height, rows.into_iter().flatten().copied().collect())
    }

    #[test]
    fn what_is_drawn_is_read_by_a_camera() {
        let invoice = format!("LIGHTNING:LNBCRT50U1P{}", "4SYCZ7DQQNP".repeat(35));
        for text in ["LIGHTNING:LNBC1", "bcrt1qhuy2eavu7z6ap346dw84", &invoice] {
            let drawn = drawing(&view(&json!({ "scan": text })));
            let (width, height, seen) = photograph(&drawn);
            let mut reader = quircs::Quirc::default();
            let codes: Vec<_> = reader.identify(width, height, &seen).collect();
            let [Ok(code)] = &codes[..] else {
                panic!("{} codes are seen in\n{drawn}", codes.len());
            };
            let read = code.decode().expect("it is read").payload;
            assert_eq!(String::from_utf8_lossy(&read), text);
        }
    }
}
