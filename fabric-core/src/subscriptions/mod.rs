//! Topics, filters, and the tree that finds the filters matching a topic.

pub mod filter;
pub mod tree;

pub use filter::{Filter, FilterError, TopicError};
pub use tree::FilterTree;
