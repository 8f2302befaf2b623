//! Puts the parts of one node together.
