//! A TCP relay in front of a server, which counts what goes through it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What went through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// How often the client spoke after the server had, on all connections: the logon and the TLS handshake included.
    pub(crate) round_trips: u64,
    /// From the client.
    pub(crate) sent: u64,
    /// To the client.
    pub(crate) received: u64,
}

#[derive(Default)]
struct Counters {
    round_trips: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Whose turn it is on one connection.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    Client,
    Server,
}

pub(crate) struct Relay {
    pub(crate) port: u16,
    counters: Arc<Counters>,
}

impl Relay {
    pub(crate) async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counters = Arc::new(Counters::default());
        let counting = counters.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let turn = Arc::new(Mutex::new(Turn::Server));
                tokio::spawn(pass(from_client, to_server, Turn::Client, turn.clone(), counting.clone()));
                tokio::spawn(pass(from_server, to_client, Turn::Server, turn, counting.clone()));
            }
        });
        Self { port, counters }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let Counters { round_trips, sent, received } = &*self.counters;
        Traffic { round_trips: round_trips.load(Relaxed), sent: sent.load(Relaxed), received: received.load(Relaxed) }
    }
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            round_trips: self.round_trips - before.round_trips,
            sent: self.sent - before.sent,
            received: self.received - before.received,
        }
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    who: Turn,
    turn: Arc<Mutex<Turn>>,
    counters: Arc<Counters>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let before = std::mem::replace(&mut *turn.lock().unwrap(), who);
        counters.round_trips.fetch_add(u64::from(who == Turn::Client && before == Turn::Server), Relaxed);
        let way = if who == Turn::Client { &counters.sent } else { &counters.received };
        way.fetch_add(length as u64, Relaxed);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    drop(to.shutdown().await);
}
