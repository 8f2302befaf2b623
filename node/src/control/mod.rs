//! What the leader does: links, presence, dispatch.
