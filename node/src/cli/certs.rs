//! `carillon certs`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cluster_proto::NodeId;
use serde_json::json;

use super::{Failure, args::CertsCommand, files, output::Out};
use crate::transport::certs::{self, AUTHORITY_FILE, AUTHORITY_KEY_FILE, CertsError};

pub(super) fn run(command: CertsCommand, out: &mut Out) -> Result<(), Failure> {
    match command {
        CertsCommand::Authority { out: dir } => {
            make_dir(&dir)?;
            certs::write_authority(&dir)?;
            let (cert, key) = (dir.join(AUTHORITY_FILE), dir.join(AUTHORITY_KEY_FILE));
            told(out, "the authority", &cert, &key)
        }
        CertsCommand::Node { authority, id, roles, hosts, out: dir } => {
            needs_authority(&authority)?;
            make_dir(&dir)?;
            let made = certs::write_node(&authority, NodeId(id), roles, &hosts)?;
            place(
                out,
                &format!("the certificate of node {id}"),
                (&made.cert, &made.key),
                &authority,
                &dir,
                "node",
            )
        }
        CertsCommand::Operator { authority, out: dir } => {
            needs_authority(&authority)?;
            make_dir(&dir)?;
            let made = certs::write_operator(&authority)?;
            place(out, "the operator's certificate", (&made.cert, &made.key), &authority, &dir, "operator")
        }
    }
}

/// Certificates are made beside their authority; this moves them where they are wanted, with a copy of `ca.pem`.
fn place(
    out: &mut Out,
    what: &str,
    made: (&Path, &Path),
    authority: &Path,
    dir: &Path,
    name: &str,
) -> Result<(), Failure> {
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    move_file(made.0, &cert)?;
    move_file(made.1, &key)?;
    let (from, to) = (authority.join(AUTHORITY_FILE), dir.join(AUTHORITY_FILE));
    if fs::canonicalize(&from).ok() != fs::canonicalize(&to).ok() {
        fs::copy(&from, &to).map_err(|error| files::named(&to, &error))?;
    }
    told(out, what, &cert, &key)
}

/// Renames, or copies to another file system; permissions go with it either way.
fn move_file(from: &Path, to: &Path) -> Result<(), Failure> {
    if from == to || fs::rename(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map_err(|error| files::named(to, &error))?;
    fs::remove_file(from).map_err(|error| files::named(from, &error))?;
    Ok(())
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| files::named(dir, &error).into())
}

fn needs_authority(dir: &Path) -> Result<(), Failure> {
    let key: PathBuf = dir.join(AUTHORITY_KEY_FILE);
    if key.exists() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "there is no authority in {}: `carillon certs authority --out {}` makes one",
        dir.display(),
        dir.display()
    )))
}

fn told(out: &mut Out, what: &str, cert: &Path, key: &Path) -> Result<(), Failure> {
    out.result(&json!({ "cert": cert, "key": key }), || {
        format!("{what} is in {} and {}", cert.display(), key.display())
    })
}

impl From<CertsError> for Failure {
    fn from(error: CertsError) -> Self {
        Self::Refused(error.to_string())
    }
}
