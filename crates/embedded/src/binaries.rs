//! Finds the server binaries of a version on this machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    EmbeddedError,
    system::{self, RunAs},
};

/// The binaries of one installed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The directory that holds `postgres` and `initdb`.
    pub dir: PathBuf,
    /// The major version, 14 to 18.
    pub major: u32,
    /// The whole version as `postgres --version` prints it, such as `15.18`.
    pub version: String,
}

impl Binaries {
    /// The binaries of the wanted major version, or of the newest one there is. `$ROWCAST_PG_BIN` wins
    /// when it is of the wanted version.
    pub fn find(major: Option<u32>) -> Result<Binaries, EmbeddedError> {
        let from_env = std::env::var_os("ROWCAST_PG_BIN")
            .and_then(|dir| Binaries::of(Path::new(&dir)))
            .filter(|found| major.is_none_or(|wanted| wanted == found.major));
        if let Some(found) = from_env {
            return Ok(found);
        }
        let mut all = installed();
        match major {
            Some(wanted) => all.remove(&wanted),
            None => all.pop_last().map(|(_, found)| found),
        }
        .ok_or_else(|| EmbeddedError::NoBinaries {
            wanted: major.map_or("server".to_owned(), |m| m.to_string()),
            install: major.unwrap_or(18),
        })
    }

    /// What is in a directory, when that is a server's.
    fn of(dir: &Path) -> Option<Binaries> {
        if !dir.join("initdb").exists() {
            return None;
        }
        let out = Command::new(dir.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let version = version(&String::from_utf8_lossy(&out.stdout))?;
        Some(Binaries {
            dir: dir.to_owned(),
            major: version.split('.').next()?.parse().ok()?,
            version,
        })
    }

    /// The path of a program of this version; client programs are not always there.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let path = self.dir.join(name);
        path.exists().then_some(path)
    }

    /// The same binaries where `user` can run them: copied when the checkout is closed to others.
    pub(crate) fn for_user(self, user: Option<RunAs>) -> Result<Binaries, EmbeddedError> {
        let Some(user) = user.filter(|user| !system::reachable(&self.dir, *user)) else {
            return Ok(self);
        };
        let Some(install) = self.dir.parent() else {
            return Ok(self);
        };
        let copy = system::temp_root().join(format!("rowcast-pg-{}-{}", self.version, user.uid));
        if !copy.join("bin/postgres").exists() {
            let fresh = copy.with_extension(format!("new{}", std::process::id()));
            system::run(
                "cp",
                Command::new("cp")
                    .arg("-a")
                    .arg("--")
                    .arg(install)
                    .arg(&fresh),
            )?;
            // Somebody else may have been faster; theirs is the same.
            if fs::rename(&fresh, &copy).is_err() {
                let _ = fs::remove_dir_all(&fresh);
            }
        }
        Ok(Binaries {
            dir: copy.join("bin"),
            ..self
        })
    }
}

/// One installation per major version: those of `scripts/postgres.sh` win over the system's.
pub fn installed() -> BTreeMap<u32, Binaries> {
    let mut found = BTreeMap::new();
    for dir in candidates() {
        if let Some(binaries) = Binaries::of(&dir) {
            found.entry(binaries.major).or_insert(binaries);
        }
    }
    found
}

/// Directories that may hold binaries, the preferred ones first.
fn candidates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::env::var_os("ROWCAST_PG_BIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    // The checkout is above the current directory (tests, make) or above the program (target/…).
    let starts = [std::env::current_dir(), std::env::current_exe()];
    for start in starts.into_iter().flatten() {
        for up in start.ancestors() {
            dirs.extend(versions_below(&up.join(".cache/postgres")));
        }
    }
    dirs.extend(versions_below(Path::new("/usr/lib/postgresql")));
    dirs.extend(
        fs::read_dir("/usr")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("pgsql-"))
            })
            .map(|path| path.join("bin")),
    );
    dirs.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    dirs
}

fn versions_below(dir: &Path) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("postgres").exists())
        .collect();
    dirs.sort();
    dirs
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is `15.18`.
fn version(line: &str) -> Option<String> {
    let word = line.split_whitespace().nth(2)?;
    let end = word
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(word.len());
    (end > 0).then(|| word[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn reads_versions() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)";
        assert_eq!(version(debian).as_deref(), Some("15.18"));
        assert_eq!(
            version("postgres (PostgreSQL) 18beta1\n").as_deref(),
            Some("18")
        );
        assert_eq!(version("nonsense"), None);
    }
}
