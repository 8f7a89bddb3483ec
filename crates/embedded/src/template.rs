//! `initdb` takes about a second, copying its result a tenth of that: so it runs once per version and
//! kind of authentication, and its result is kept in the temporary directory.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use crate::{
    Binaries, EmbeddedError,
    system::{self, RunAs},
};

/// Raised when the arguments of `initdb` change.
const FORMAT: u32 = 1;

/// A directory to copy a new cluster's data directory from.
pub(crate) fn template(
    binaries: &Binaries,
    password: Option<&str>,
    user: Option<RunAs>,
) -> Result<PathBuf, EmbeddedError> {
    let owner = user.map_or_else(system::own_uid, |user| user.uid);
    let mut hasher = DefaultHasher::new();
    (FORMAT, &binaries.dir, password).hash(&mut hasher);
    let name = format!(
        "rowcast-initdb-{}-{owner}-{:016x}",
        binaries.version,
        hasher.finish()
    );
    let target = system::temp_root().join(name);
    if target.join("data/PG_VERSION").exists() {
        return Ok(target.join("data"));
    }
    let work = target.with_extension(format!(
        "new{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    system::private_dir(&work, user)?;
    let result = init(binaries, password, user, &work);
    if let Err(error) = result {
        let _ = fs::remove_dir_all(&work);
        return Err(error);
    }
    // Two processes may race; whoever comes second throws his own away.
    if fs::rename(&work, &target).is_err() {
        let _ = fs::remove_dir_all(&work);
    }
    Ok(target.join("data"))
}

fn init(
    binaries: &Binaries,
    password: Option<&str>,
    user: Option<RunAs>,
    work: &Path,
) -> Result<(), EmbeddedError> {
    let initdb = binaries.dir.join("initdb");
    let mut command = system::command(&initdb, user, work);
    command
        .args(["--username=postgres", "--encoding=UTF8", "--locale=C"])
        .args(["--no-sync", "--no-instructions", "--pgdata=data"]);
    if let Some(password) = password {
        let file = work.join("password");
        fs::write(&file, format!("{password}\n"))
            .map_err(EmbeddedError::io("could not write", &file))?;
        system::own(&file, user)?;
        command.args(["--pwfile=password", "--auth=scram-sha-256"]);
    } else {
        command.arg("--auth=trust");
    }
    let done = system::run("initdb", &mut command);
    let _ = fs::remove_file(work.join("password"));
    done
}
