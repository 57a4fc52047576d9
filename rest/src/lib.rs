//! HTTP as guardians and gateways serve it, whatever their routes are.
//!
//! - `server`: connections and their bounds, and what wraps every route: bodies,
//!   time, panics, request ids
//! - `problem`: one shape for every error, and extractors that answer in it
//! - `limits`: how much one client may ask for
//! - `requests`, `process`: what is counted, and where Prometheus reads it
//!
//! What is asked and answered is no concern of this crate.

mod limits;
mod problem;
mod process;
mod requests;
mod server;

pub use limits::{Address, BURST_SECONDS, Rate, bound_rate};
pub use problem::{Body, Failure, PROBLEM_JSON, Parameters, Segments};
pub use process::Process;
pub use requests::{Requests, serve_metrics};
pub use server::{MAX_BODY_BYTES, MAX_CONNECTIONS_PER_ADDRESS, serve, wrap};
