//! `modmint-gateway-cli`: a gateway's operator on the command line.
//!
//! Standard output has the result and nothing else: for people, or one JSON document
//! with `--json` or where it is no terminal. The JSON is what the gateway answers, see
//! its `/openapi.json`.

mod output;

use std::{fs, io::IsTerminal as _, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use modmint_core::{FederationId, rest::Problem};
use modmint_gateway::{
    api::types::{ConnectRequest, JoinRequest, SendRequest, TermsChange, WithdrawRequest},
    lightning::OpenChannel,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// How long the gateway may take: it may ask guardians, or a peer.
const PATIENCE: Duration = Duration::from_secs(90);

const EXIT_HELP: &str = "\
Exit codes:
   0  success
   1  error: of the gateway, or of this machine
   2  usage: wrong arguments
   3  not-found: no such federation, channel or invoice
   4  insufficient-funds
   5  refused: by the gateway, its node or a federation; or the key is not for this
   7  unreachable: the gateway, or its federation, does not answer";

/// Looks after a gateway.
#[derive(Debug, Parser)]
#[command(name = "modmint-gateway-cli", version, after_help = EXIT_HELP)]
struct Cli {
    /// Where the gateway's REST API is
    #[arg(
        long,
        global = true,
        env = "MODMINT_GATEWAY_URL",
        default_value = "http://127.0.0.1:8180"
    )]
    url: String,
    /// The file that holds the key: admin.key in the gateway's folder, or one that
    /// `modmint-gatewayd key add` printed
    #[arg(
        long,
        global = true,
        env = "MODMINT_GATEWAY_KEY_FILE",
        value_name = "FILE"
    )]
    key_file: Option<PathBuf>,
    /// Print JSON; so it is where standard output is no terminal
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what runs
    Info,
    /// Show whether users can be served, check by check
    Ready,
    /// Show all that the gateway holds
    Balances,
    /// Federations: what they hold, fees and limits
    #[command(subcommand)]
    Federation(FederationCommand),
    /// Channels of the Lightning node
    #[command(subcommand)]
    Channel(ChannelCommand),
    /// Connect to a peer, and again after each restart
    Connect {
        /// KEY@HOST:PORT
        peer: String,
    },
    /// Bitcoin of the Lightning node's own wallet
    #[command(subcommand)]
    Onchain(OnchainCommand),
    /// Show the payment log, newest first
    Payments {
        /// How many lines
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<u64>,
    },
    /// Show how many payments there were, and what they brought
    Summary {
        /// Seconds since 1970 [default: 24 hours ago]
        #[arg(long)]
        since: Option<u64>,
        /// Seconds since 1970 [default: now]
        #[arg(long)]
        until: Option<u64>,
    },
    /// Whether nothing is lost
    Solvency {
        /// Say that what there is now is right: a gateway that has halted goes on
        #[arg(long)]
        accept: bool,
    },
}

#[derive(Debug, Subcommand)]
enum FederationCommand {
    /// List all that were ever joined
    List,
    /// Join one by its invite
    Join {
        /// It begins with modmint1
        invite: String,
    },
    /// Serve one no longer, and show what is left there
    Leave {
        /// Its id
        id: FederationId,
        /// Even where there is e-cash, or something is under way: that goes on, and the
        /// e-cash stays
        #[arg(long)]
        force: bool,
    },
    /// Change fees and limits; what is not named stays
    Terms {
        /// Its id
        id: FederationId,
        /// For each payment out, millisatoshi
        #[arg(long, value_name = "MSAT")]
        pay_base: Option<u64>,
        /// Of each payment out, millionths
        #[arg(long, value_name = "PPM")]
        pay_ppm: Option<u64>,
        /// For each payment in, millisatoshi
        #[arg(long, value_name = "MSAT")]
        receive_base: Option<u64>,
        /// Of each payment in, millionths
        #[arg(long, value_name = "PPM")]
        receive_ppm: Option<u64>,
        /// The largest invoice, millisatoshi
        #[arg(long, value_name = "MSAT")]
        maximum_invoice: Option<u64>,
        /// The most that is risked, millisatoshi
        #[arg(long, value_name = "MSAT")]
        maximum_exposure: Option<u64>,
    },
    /// Show an address that makes e-cash of what is paid to it
    Deposit {
        /// The federation's id
        id: FederationId,
    },
    /// Make bitcoin of e-cash
    Withdraw {
        /// The federation's id
        id: FederationId,
        /// Where to
        address: String,
        /// What is to arrive, satoshi
        amount_sat: u64,
        /// The most that it may cost, satoshi
        #[arg(long, default_value_t = 5_000, value_name = "SAT")]
        maximum_fee: u64,
    },
}

#[derive(Debug, Subcommand)]
enum ChannelCommand {
    /// List them
    List,
    /// Open one; it is ready some blocks later
    Open {
        /// KEY@HOST:PORT
        peer: String,
        /// Both sides together, satoshi
        capacity_sat: u64,
        /// What the peer is given of it, satoshi
        #[arg(long, default_value_t = 0, value_name = "SAT")]
        push: u64,
        /// Tell the network of it
        #[arg(long)]
        announced: bool,
    },
    /// Close one
    Close {
        /// Its id
        id: String,
        /// Without the peer: slower and dearer
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
enum OnchainCommand {
    /// Show a new address
    Address,
    /// Send bitcoin
    Send {
        /// Where to
        address: String,
        /// How many satoshi, or `all`
        amount: String,
        /// The fee rate, satoshi a virtual byte [default: the node's estimate]
        #[arg(long, value_name = "RATE")]
        sat_per_vbyte: Option<u64>,
    },
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Success = 0,
    Error = 1,
    Usage = 2,
    NotFound = 3,
    InsufficientFunds = 4,
    Refused = 5,
    Unreachable = 7,
}

/// What is printed instead of a result.
struct Failed {
    exit: Exit,
    code: String,
    message: String,
}

impl Failed {
    fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self {
            exit,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    fn of(status: StatusCode, problem: Problem) -> Self {
        let exit = match (status.as_u16(), problem.code.as_str()) {
            (_, "not-enough-money") => Exit::InsufficientFunds,
            (400, _) => Exit::Usage,
            (404, _) => Exit::NotFound,
            (502..=504, _) => Exit::Unreachable,
            (400..=499, _) => Exit::Refused,
            _ => Exit::Error,
        };
        Self::new(exit, &problem.code, problem.detail)
    }
}

/// What is asked of the gateway, and how people are shown the answer.
struct Request {
    method: Method,
    path: String,
    body: Option<Value>,
    show: fn(&Value) -> String,
}

fn get(path: impl Into<String>, show: fn(&Value) -> String) -> Request {
    Request {
        method: Method::GET,
        path: path.into(),
        body: None,
        show,
    }
}

fn post(path: impl Into<String>, body: Value, show: fn(&Value) -> String) -> Request {
    Request {
        method: Method::POST,
        path: path.into(),
        body: Some(body),
        show,
    }
}

fn delete(path: impl Into<String>, show: fn(&Value) -> String) -> Request {
    Request {
        method: Method::DELETE,
        path: path.into(),
        body: None,
        show,
    }
}

fn peer(text: &str) -> Result<(String, String), Failed> {
    let (key, address) = text.split_once('@').ok_or_else(|| {
        let told = format!("{text:?} is no peer; KEY@HOST:PORT is expected");
        Failed::new(Exit::Usage, "bad-argument", told)
    })?;
    Ok((key.to_owned(), address.to_owned()))
}

/// Types of the library, which are JSON.
fn json_of(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn request(command: &Command) -> Result<Request, Failed> {
    Ok(match command {
        Command::Info => get("/v1/info", output::info),
        Command::Ready => get("/readyz", output::ready),
        Command::Balances => get("/v1/balances", output::balances),
        Command::Federation(command) => federation(command),
        Command::Channel(ChannelCommand::List) => get("/v1/channels", output::channels),
        Command::Channel(ChannelCommand::Open {
            peer: text,
            capacity_sat,
            push,
            announced,
        }) => {
            let (peer, address) = peer(text)?;
            let order = OpenChannel {
                peer,
                address,
                capacity_sat: *capacity_sat,
                push_msat: push.saturating_mul(1000),
                announced: *announced,
            };
            post("/v1/channels", json_of(&order), output::names)
        }
        Command::Channel(ChannelCommand::Close { id, force }) => {
            // It becomes a part of the path.
            if id.is_empty() || !id.chars().all(|c| c.is_ascii_hexdigit()) {
                let told = format!("{id:?} is no channel's id; 32 hexadecimal digits are expected");
                return Err(Failed::new(Exit::Usage, "bad-argument", told));
            }
            delete(format!("/v1/channels/{id}?force={force}"), output::done)
        }
        Command::Connect { peer: text } => {
            let (peer, address) = peer(text)?;
            let order = ConnectRequest { peer, address };
            post("/v1/peers", json_of(&order), output::done)
        }
        Command::Onchain(OnchainCommand::Address) => {
            post("/v1/onchain/addresses", json!({}), output::only)
        }
        Command::Onchain(OnchainCommand::Send {
            address,
            amount,
            sat_per_vbyte,
        }) => {
            let amount_sat = match amount.as_str() {
                "all" => None,
                number => Some(number.parse().map_err(|_| {
                    let told = format!("{number:?} is no number of satoshi; or `all`");
                    Failed::new(Exit::Usage, "bad-argument", told)
                })?),
            };
            let order = SendRequest {
                address: address.clone(),
                amount_sat,
                sat_per_vbyte: *sat_per_vbyte,
            };
            post("/v1/onchain/sends", json_of(&order), output::only)
        }
        Command::Payments { limit, cursor } => {
            let cursor = cursor.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
            get(
                format!("/v1/payments?limit={limit}{cursor}"),
                output::payments,
            )
        }
        Command::Summary { since, until } => {
            let since = since.map_or(String::new(), |since| format!("since={since}&"));
            let until = until.map_or(String::new(), |until| format!("until={until}"));
            get(format!("/v1/summary?{since}{until}"), output::summary)
        }
        Command::Solvency { accept: false } => get("/v1/solvency", output::solvency),
        Command::Solvency { accept: true } => {
            post("/v1/solvency/accept", json!({}), output::solvency)
        }
    })
}

fn federation(command: &FederationCommand) -> Request {
    match command {
        FederationCommand::List => get("/v1/federations", output::federations),
        FederationCommand::Join { invite } => {
            let order = JoinRequest {
                invite: invite.clone(),
                terms: None,
            };
            post("/v1/federations", json_of(&order), output::federation)
        }
        FederationCommand::Leave { id, force } => {
            delete(format!("/v1/federations/{id}?force={force}"), output::names)
        }
        FederationCommand::Terms {
            id,
            pay_base,
            pay_ppm,
            receive_base,
            receive_ppm,
            maximum_invoice,
            maximum_exposure,
        } => {
            let change = TermsChange {
                pay_base_msat: *pay_base,
                pay_parts_per_million: *pay_ppm,
                receive_base_msat: *receive_base,
                receive_parts_per_million: *receive_ppm,
                maximum_invoice_msat: *maximum_invoice,
                maximum_exposure_msat: *maximum_exposure,
            };
            let path = format!("/v1/federations/{id}/terms");
            post(path, json_of(&change), output::names)
        }
        FederationCommand::Deposit { id } => post(
            format!("/v1/federations/{id}/deposit-addresses"),
            json!({}),
            output::only,
        ),
        FederationCommand::Withdraw {
            id,
            address,
            amount_sat,
            maximum_fee,
        } => {
            let order = WithdrawRequest {
                address: address.clone(),
                amount_sat: *amount_sat,
                maximum_fee_sat: *maximum_fee,
            };
            let path = format!("/v1/federations/{id}/withdrawals");
            post(path, json_of(&order), output::names)
        }
    }
}

/// Whether a URL is of this machine.
fn is_here(url: &str) -> bool {
    let url = url::Url::parse(url).ok();
    match url.as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

async fn ask(cli: &Cli, request: &Request) -> Result<Value, Failed> {
    let error = |e: reqwest::Error| Failed::new(Exit::Error, "error", e.to_string());
    let mut http = reqwest::Client::builder()
        .timeout(PATIENCE)
        // A gateway sends nobody elsewhere.
        .redirect(reqwest::redirect::Policy::none());
    if is_here(&cli.url) {
        http = http.no_proxy();
    }
    let http = http.build().map_err(error)?;
    let url = format!("{}{}", cli.url.trim_end_matches('/'), request.path);
    let mut asked = http.request(request.method.clone(), &url);
    if let Some(file) = &cli.key_file {
        if !cli.url.starts_with("https://") && !is_here(&cli.url) {
            let told = format!(
                "the key is not sent to {}, where others could read it on its way; https://, or this machine, is expected",
                cli.url
            );
            return Err(Failed::new(Exit::Usage, "bad-argument", told));
        }
        let key = fs::read_to_string(file).map_err(|e| {
            let told = format!("the key in {} cannot be read: {e}", file.display());
            Failed::new(Exit::Usage, "bad-argument", told)
        })?;
        asked = asked.bearer_auth(key.trim());
    }
    if let Some(body) = &request.body {
        asked = asked.json(body);
    }
    let answer = asked.send().await.map_err(|e| {
        let told = format!("the gateway at {} does not answer: {e}", cli.url);
        match e.is_builder() {
            true => Failed::new(Exit::Usage, "bad-argument", told),
            false => Failed::new(Exit::Unreachable, "unreachable", told),
        }
    })?;
    let status = answer.status();
    let bytes = answer.bytes().await.map_err(error)?;
    // How it is comes with 503 too, and is what was asked for.
    if status.is_success() || request.path == "/readyz" {
        return match bytes.is_empty() {
            true => Ok(json!({})),
            false => serde_json::from_slice(&bytes)
                .map_err(|e| Failed::new(Exit::Error, "error", format!("no JSON: {e}"))),
        };
    }
    Err(match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => Failed::of(status, problem),
        Err(_) => Failed::new(
            Exit::Error,
            "error",
            format!("{url} answers {status}: is it a gateway?"),
        ),
    })
}

fn main() -> ExitCode {
    let terminal = std::io::stdout().is_terminal();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors to clap either.
            let usage = error.use_stderr();
            let as_json = !terminal || std::env::args_os().any(|word| word == "--json");
            if usage && as_json {
                output::error(true, "bad-argument", error.to_string().trim());
            } else {
                // Where it cannot be printed the exit code remains.
                let _ = error.print();
            }
            let exit = if usage { Exit::Usage } else { Exit::Success };
            return ExitCode::from(exit as u8);
        }
    };
    let as_json = cli.json || !terminal;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answered = match (request(&cli.command), runtime) {
        (Ok(request), Ok(runtime)) => runtime
            .block_on(ask(&cli, &request))
            .map(|answer| (answer, request.show)),
        (Err(failed), _) => Err(failed),
        (_, Err(e)) => Err(Failed::new(Exit::Error, "error", e.to_string())),
    };
    match answered {
        Ok((answer, show)) => {
            let not_ready = answer["status"] == "not-ready";
            match as_json {
                true => output::print(&format!("{answer:#}\n")),
                false => output::print(&show(&answer)),
            }
            let exit = if not_ready {
                Exit::Error
            } else {
                Exit::Success
            };
            ExitCode::from(exit as u8)
        }
        Err(failed) => {
            output::error(as_json, &failed.code, &failed.message);
            ExitCode::from(failed.exit as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_from_others_that_look_like_it() {
        for here in [
            "http://127.0.0.1:8180",
            "http://localhost",
            "http://[::1]:1/",
        ] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in [
            "http://gateway.example",
            "http://127.0.0.1.example",
            "http://localhost@example.org",
            "nonsense",
        ] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }
}
