//! `rowcast generate helper`: reads what is tracked and declared, and writes the module, or compares it with the file.

mod read;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    cli::HelperArgs,
    config::Config,
    db,
    helper::{self, HelperError},
    term::{line, note},
};

/// Writes the module to a file or standard output, or checks the file.
pub async fn run(config: &Config, args: &HelperArgs) -> anyhow::Result<()> {
    let client = db::connect(config).await?;
    let schema = read::schema(&client).await?;
    let module = helper::module(&schema)?;
    for said in &module.notes {
        note(said);
    }
    let Some(path) = &args.out else {
        line(module.text.trim_end());
        return Ok(());
    };
    let there = present(path)?;
    match (there, args.check) {
        (Some(there), _) if same(&there, &module.text) => {
            line(format!("{} is in step with the database", path.display()));
        }
        (there, true) => {
            let what = there.map_or("it is not there".to_owned(), |there| {
                format!("from line {} on", first_difference(&there, &module.text))
            });
            let path = path.clone();
            return Err(HelperError::OutOfStep { path, what }.into());
        }
        (Some(there), false) if !there.starts_with(helper::MARK) => {
            return Err(HelperError::ForeignFile(path.clone()).into());
        }
        (_, false) => {
            write(path, &module.text)?;
            line(format!("wrote {}", path.display()));
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> HelperError {
    let path = path.to_owned();
    move |error| HelperError::File {
        path: path.clone(),
        error,
    }
}

/// What is in the file.
fn present(path: &Path) -> Result<Option<String>, HelperError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path)(error)),
    }
}

/// A checkout may have turned the ends of the lines.
fn same(there: &str, wanted: &str) -> bool {
    there == wanted || there.replace("\r\n", "\n") == wanted
}

/// The number of the first line that differs.
fn first_difference(there: &str, wanted: &str) -> usize {
    let alike = there
        .lines()
        .zip(wanted.lines())
        .take_while(|(a, b)| a == b);
    alike.count() + 1
}

/// Writes it as a whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), HelperError> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|error| {
            // What is left of it is of no use, and the first failure is the one to tell.
            let _ = std::fs::remove_file(&beside);
            failed(path)(error)
        })
}
