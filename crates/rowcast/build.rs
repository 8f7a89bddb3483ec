//! Lists the files of `sql/` for the binary, so that adding a migration is adding a file.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = env::var("CARGO_MANIFEST_DIR")?;
    let sql = Path::new(&manifest).join("../../sql").canonicalize()?;
    println!("cargo::rerun-if-changed={}", sql.display());
    let mut files: Vec<String> = fs::read_dir(&sql)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name.ends_with(".sql") && name.as_bytes().first().is_some_and(u8::is_ascii_digit)
        })
        .collect();
    files.sort();
    let list: String = files
        .iter()
        .map(|name| {
            let path = sql.join(name);
            println!("cargo::rerun-if-changed={}", path.display());
            format!(
                "    ({name:?}, include_str!({:?})),\n",
                path.display().to_string()
            )
        })
        .collect();
    let out = Path::new(&env::var("OUT_DIR")?).join("migrations.rs");
    fs::write(out, format!("&[\n{list}]\n"))?;
    Ok(())
}
