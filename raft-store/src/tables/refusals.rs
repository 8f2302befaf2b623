//! Numbered commands of edges that were refused. A refusal uses a number up like a success, and its answer may be lost
//! with the link; what is remembered here keeps the edge from taking it for a success when it asks again.

use cluster_proto::{
    NodeId,
    link::{Lane, Origin},
};

use super::{
    LANES,
    db::{Read, read},
    error::StoreError,
    keys,
    txn::Txn,
    value::RefusedRow,
};

/// Refused numbers remembered per lane. The oldest is forgotten: it was answered long ago, unless as many refusals
/// after it are unanswered too.
const REFUSED_PER_LANE_MAX: usize = 1_024;

/// The command of `origin` was refused.
pub(crate) fn remember(txn: &mut Txn<'_>, origin: &Origin) -> Result<(), StoreError> {
    let key = keys::edge_refused(origin.edge, place(origin.lane));
    let mut row = txn.read::<RefusedRow>(&key)?.unwrap_or_default();
    if row.seqs.len() >= REFUSED_PER_LANE_MAX {
        row.seqs.remove(0);
    }
    // Apply admits a lane's numbers in order.
    row.seqs.push(origin.seq);
    txn.put(key, &row);
    Ok(())
}

/// A life of the edge is over, and with it its numbers.
pub(crate) fn forget(txn: &mut Txn<'_>, edge: NodeId) -> Result<(), StoreError> {
    for lane in LANES {
        let key = keys::edge_refused(edge, place(lane));
        if txn.read::<RefusedRow>(&key)?.is_some() {
            txn.delete(key);
        }
    }
    Ok(())
}

/// The refused numbers of a lane that are remembered, ascending.
pub(crate) fn of_lane(tables: &impl Read, edge: NodeId, lane: Lane) -> Result<Vec<u64>, StoreError> {
    Ok(read::<RefusedRow>(tables, &keys::edge_refused(edge, place(lane)))?.unwrap_or_default().seqs)
}

fn place(lane: Lane) -> u8 {
    LANES.iter().position(|other| *other == lane).unwrap_or_default() as u8
}
