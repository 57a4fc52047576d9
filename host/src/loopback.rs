//! Addresses for tests whose guardians go away and come back.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU8, Ordering},
};

/// So many addresses of this machine that nobody listens on and nobody else is given:
/// of the 16 million that lead here, each call takes one that neither another test
/// binds nor the kernel gives to outgoing connections, which leave from 127.0.0.1.
pub(crate) fn addresses(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let call = NEXT.fetch_add(1, Ordering::Relaxed) % u8::MAX;
    let own = IpAddr::from(Ipv4Addr::new(127, call + 1, high, low));
    // Held until all are chosen, so that no port is chosen twice.
    let sockets: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind((own, 0)).expect("this machine has free ports"))
        .collect();
    sockets
        .iter()
        .map(|socket| socket.local_addr().expect("it is bound"))
        .collect()
}
