//! Lives of edges, and their numbered lanes.

use cluster_proto::{Incarnation, NodeId, link::Origin};

use crate::{
    Applied,
    tables::{LANES, error::StoreError, keys, refusals, sessions, txn::Txn, value::EdgeRow},
};

/// Lets a numbered command of an edge through once (I13); otherwise answers what to tell the edge.
pub(super) fn admit(txn: &mut Txn<'_>, origin: &Origin) -> Result<Option<Applied>, StoreError> {
    let key = keys::edge(origin.edge);
    // A life nobody declared started: the edge must resume, which declares it.
    let Some(mut row) = txn.read::<EdgeRow>(&key)? else { return Ok(Some(Applied::Gap(0))) };
    if origin.incarnation < row.incarnation || (origin.incarnation == row.incarnation && row.ended) {
        return Ok(Some(Applied::IncarnationOver));
    }
    if origin.incarnation > row.incarnation {
        return Ok(Some(Applied::Gap(0)));
    }
    let lane = LANES.iter().position(|lane| *lane == origin.lane).unwrap_or_default();
    let last = &mut row.seqs[lane];
    if origin.seq <= *last {
        return Ok(Some(Applied::Duplicate));
    }
    if origin.seq > *last + 1 {
        return Ok(Some(Applied::Gap(*last)));
    }
    *last = origin.seq;
    txn.put(key, &row);
    Ok(None)
}

pub(super) fn started(
    txn: &mut Txn<'_>,
    edge: NodeId,
    incarnation: Incarnation,
) -> Result<Applied, StoreError> {
    match txn.read::<EdgeRow>(&keys::edge(edge))? {
        Some(row) if row.incarnation == incarnation && !row.ended => return Ok(Applied::Done),
        Some(row) if row.incarnation >= incarnation => return Ok(Applied::IncarnationOver),
        _ => {}
    }
    let earlier = Incarnation(incarnation.0.saturating_sub(1));
    sessions::release_edge(txn, edge, earlier)?;
    refusals::forget(txn, edge)?;
    txn.put(keys::edge(edge), &EdgeRow { incarnation, ended: false, seqs: [0; 3] });
    Ok(Applied::Done)
}

pub(super) fn ended(
    txn: &mut Txn<'_>,
    edge: NodeId,
    incarnation: Incarnation,
) -> Result<Applied, StoreError> {
    let row = txn.read::<EdgeRow>(&keys::edge(edge))?;
    if row.as_ref().is_some_and(|row| row.incarnation > incarnation) {
        // A newer life has started, and ended what was before it.
        return Ok(Applied::Done);
    }
    sessions::release_edge(txn, edge, incarnation)?;
    refusals::forget(txn, edge)?;
    let seqs = row.filter(|row| row.incarnation == incarnation).map_or([0; 3], |row| row.seqs);
    txn.put(keys::edge(edge), &EdgeRow { incarnation, ended: true, seqs });
    Ok(Applied::Done)
}
