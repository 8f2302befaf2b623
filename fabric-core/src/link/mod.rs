//! The machines at both ends of the link between an edge and the leader.
