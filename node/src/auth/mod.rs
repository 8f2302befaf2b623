//! Tokens: JWTs signed with the control group's own Ed25519 keys (`alg` EdDSA, `kid` in the header).
//!
//! - `issue` signs, on the leader, with a key from the tables.
//! - [`Keyring`] verifies, anywhere, with the public halves that the leader hands out.
//! - [`TokenCache`] remembers what was verified, so that a reconnect storm does not check signatures twice.
//!
//! A token of one audience never passes for the other: a terminal's password is no API token.
//! Revocation is not decided here: the caller compares `iat` with what the tables or the link say.

mod cache;
mod issue;
mod keyring;

pub use cache::TokenCache;
pub use issue::{IssueError, generate_key, issue_api, issue_terminal, public_key};
pub use keyring::{AuthError, Keyring};
