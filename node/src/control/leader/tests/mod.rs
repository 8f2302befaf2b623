//! The leader over real tables: proposals are applied at once, edges are scripts.

mod apps;
mod binds;
mod cluster;
mod collapse;
mod dispatch;
mod edges;
mod lanes;
mod releases;
mod retained;
mod settle;
mod shared;
mod world;

use cluster_proto::{
    AppId, Audience, Epoch, Incarnation, Message, NodeId, Outcome, PushId, PushKind, Qos, State, TerminalId,
    TerminalNo, TerminalSet, Will, limits::OWED_PER_PULL_MAX, link::*,
};
use raft_store::{
    Applied, Command, CommandBody, ProposeError, Refusal, command::AcceptPush, tables::TablesOptions,
};
use tokio::sync::oneshot;

use super::*;
use world::*;
