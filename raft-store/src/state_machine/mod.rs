//! openraft's state machine: the adapter, and the thread that owns the tables' write side.

pub(crate) mod apply_thread;
pub(crate) mod raft_adapter;

pub(crate) use apply_thread::{ApplyProgress, ApplyThread};
pub(crate) use raft_adapter::RaftTables;
