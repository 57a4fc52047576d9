//! The run of blocks that follow the agreed one in bitcoind's best chain.
