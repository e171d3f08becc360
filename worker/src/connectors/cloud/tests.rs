//! Against an independent tenant that was written from the documented shapes only, `tests/peers/cloud_peer.py`; and against the lab's.

mod entra;
mod graph;
mod lab;
mod online;
mod peer;
