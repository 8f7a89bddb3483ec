//! Who we are, whom the server runs as, and the few programs of the system that we start.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::EmbeddedError;

/// The user a server runs as, when it must be another one than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

/// Whom to run the server as: `None` is "as we are", which is right unless we are root.
pub(crate) fn run_as() -> Result<Option<RunAs>, EmbeddedError> {
    if own_uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| find_user(&passwd, name))
        .map(Some)
        .ok_or(EmbeddedError::NoUser)
}

/// Our user id; an unknown one counts as "not root".
pub(crate) fn own_uid() -> u32 {
    if let Ok(own) = fs::metadata("/proc/self") {
        return own.uid();
    }
    Command::new("id")
        .arg("-u")
        .output()
        .ok()
        .and_then(|out| String::from_utf8_lossy(&out.stdout).trim().parse().ok())
        .unwrap_or(u32::MAX)
}

fn find_user(passwd: &str, name: &str) -> Option<RunAs> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [user, _, uid, gid, ..] if *user == name => Some(RunAs {
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
            }),
            _ => None,
        }
    })
}

/// A command of the server's user with a clean environment of its own process group, so that Ctrl-C
/// in a terminal reaches us and not the server behind our back.
pub(crate) fn command(program: &Path, as_user: Option<RunAs>, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("HOME", dir)
        .current_dir(dir)
        .process_group(0);
    if let Some(user) = as_user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Runs a command to its end; its output is in the error.
pub(crate) fn run(program: &'static str, command: &mut Command) -> Result<(), EmbeddedError> {
    let out = command.output().map_err(EmbeddedError::io(
        "could not run",
        command.get_program().to_owned(),
    ))?;
    if out.status.success() {
        return Ok(());
    }
    let all = [out.stdout, out.stderr].concat();
    Err(EmbeddedError::Program {
        program,
        output: tail(&String::from_utf8_lossy(&all), 20),
    })
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Makes a directory (and its parents) that belongs to the server's user alone.
pub(crate) fn private_dir(path: &Path, as_user: Option<RunAs>) -> Result<(), EmbeddedError> {
    fs::create_dir_all(path).map_err(EmbeddedError::io("could not make directory", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(EmbeddedError::io("could not protect directory", path))?;
    own(path, as_user)
}

/// Gives one file or directory to the server's user.
pub(crate) fn own(path: &Path, as_user: Option<RunAs>) -> Result<(), EmbeddedError> {
    match as_user {
        Some(user) => std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .map_err(EmbeddedError::io("could not give away", path)),
        None => Ok(()),
    }
}

/// Whether the user the server runs as can get at `path`: a checkout below `/root` it cannot.
/// The nearest existing parent counts when `path` does not exist yet.
pub fn reachable_for_server(path: &Path) -> bool {
    match run_as() {
        Ok(Some(user)) => reachable(path, user),
        _ => true,
    }
}

pub(crate) fn reachable(path: &Path, user: RunAs) -> bool {
    let Ok(path) = std::path::absolute(path) else {
        return false;
    };
    path.ancestors().all(|part| match fs::metadata(part) {
        Ok(found) if !found.is_dir() => true,
        Ok(found) => {
            let mode = found.permissions().mode();
            (found.uid() == user.uid && mode & 0o100 != 0)
                || (found.gid() == user.gid && mode & 0o010 != 0)
                || mode & 0o001 != 0
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    })
}

/// Where clusters and templates live: short, since socket paths may have 107 bytes only.
pub(crate) fn temp_root() -> PathBuf {
    let usual = std::env::temp_dir();
    if usual.as_os_str().len() <= 40 {
        usual
    } else {
        PathBuf::from("/tmp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_users_by_their_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nmypostgres:x:7:7:::\npostgres:x:101:104:a,b:/var:/bin/sh\nbroken\n";
        assert_eq!(
            find_user(passwd, "postgres"),
            Some(RunAs { uid: 101, gid: 104 })
        );
        assert_eq!(find_user(passwd, "nobody"), None);
    }

    #[test]
    fn tells_directories_that_others_cannot_enter() {
        let stranger = RunAs {
            uid: 54_321,
            gid: 54_321,
        };
        let dir = temp_root().join(format!("rowcast-reach-{}", std::process::id()));
        fs::create_dir_all(dir.join("in")).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(reachable(&dir.join("in/not-there-yet"), stranger));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!reachable(&dir.join("in"), stranger));
        fs::remove_dir_all(&dir).unwrap();
    }
}
