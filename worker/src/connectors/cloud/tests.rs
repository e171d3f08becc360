//! Against an independent tenant that was written from the documented shapes only: `tests/peers/cloud_peer.py`.

mod entra;
mod graph;
mod online;
mod peer;
