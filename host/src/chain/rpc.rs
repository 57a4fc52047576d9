//! bitcoind's JSON-RPC over HTTP.

use std::{fmt, path::PathBuf};

/// How bitcoind knows us.
#[derive(Clone)]
pub enum BitcoindAuth {
    /// The cookie file that bitcoind writes anew at each start.
    Cookie(PathBuf),
    /// As in bitcoind's `rpcauth` or `rpcuser`.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for BitcoindAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(path) => f.debug_tuple("Cookie").field(path).finish(),
            Self::Password { user, .. } => write!(f, "Password({user:?}, …)"),
        }
    }
}
