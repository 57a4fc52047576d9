//! HTTP as guardians, wallets and gateways serve it, whatever their routes are.
//!
//! - `server`: connections and their bounds, and what wraps every route: bodies,
//!   time, panics, request ids
//! - `problem`: one shape for every error, and extractors that answer in it
//! - `limits`: how much one client may ask for
//! - `requests`, `process`: what is counted, and where Prometheus reads it
//! - `bearer`: the key in a request
//! - `health`: the answer of `/readyz`
//! - `docs`: the description of the routes, for programs and for people
//! - [`program`]: what daemons that serve so have in common beside HTTP
//!
//! What is asked and answered is no concern of this crate.

mod bearer;
mod docs;
mod health;
mod limits;
mod problem;
mod process;
pub mod program;
mod requests;
mod server;

pub use bearer::bearer;
pub use docs::Pages;
pub use health::health;
pub use limits::{Address, BURST_SECONDS, Rate, bound_rate, network};
pub use problem::{Body, Failure, PROBLEM_JSON, Parameters, Segments};
pub use process::Process;
pub use requests::{Requests, serve_metrics};
pub use server::{MAX_BODY_BYTES, MAX_CONNECTIONS_PER_ADDRESS, serve, wrap};
