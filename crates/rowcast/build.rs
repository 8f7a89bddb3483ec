//! Lists the files of `sql/` for the binary, so that adding a migration is adding a file.

use std::{env, error::Error, fs, path::Path};

/// From the crate to the migrations. Not absolute, so that what was built goes with a clone that moves.
const SQL: &str = "../../sql";

fn main() -> Result<(), Box<dyn Error>> {
    let sql = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join(SQL);
    println!("cargo::rerun-if-changed={SQL}");
    let mut files: Vec<String> = fs::read_dir(sql)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.ends_with(".sql") && name.as_bytes().first().is_some_and(u8::is_ascii_digit)
        })
        .collect();
    files.sort();
    let list: String = files
        .iter()
        .map(|name| {
            let path = format!("/{SQL}/{name}");
            format!(
                "    ({name:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),\n"
            )
        })
        .collect();
    let out = Path::new(&env::var("OUT_DIR")?).join("migrations.rs");
    fs::write(out, format!("&[\n{list}]\n"))?;
    Ok(())
}
