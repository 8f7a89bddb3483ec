//! The real TypeScript compiler, and Node, on files in a folder of their own.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

/// As strict as a project may be, and with nothing of Node or of a browser in it.
const STRICT: &str = r#"{"compilerOptions": {
    "strict": true, "target": "ES2020", "lib": ["ES2020"], "types": [], "module": "ES2022", "moduleResolution": "Bundler",
    "verbatimModuleSyntax": true, "isolatedModules": true, "isolatedDeclarations": true, "declaration": true, "erasableSyntaxOnly": true,
    "exactOptionalPropertyTypes": true, "noUncheckedIndexedAccess": true, "noPropertyAccessFromIndexSignature": true,
    "noUnusedLocals": true, "noUnusedParameters": true, "noImplicitOverride": true, "noImplicitReturns": true,
    "outDir": "out", "rootDir": "src"
}, "include": ["src"]}"#;

/// A folder `src` of sources, and `out` with what became of them.
pub struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// An empty one.
    pub fn new() -> Project {
        let project = Project {
            folder: tempfile::tempdir().unwrap(),
        };
        project.add("tsconfig.json", STRICT);
        project.add("package.json", r#"{"type": "module"}"#);
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a file.
    pub fn add(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Compiles it; the complaints, such as `src/app.ts(3,7): error TS2345: …`, each with its further lines.
    pub async fn compile(&self) -> Vec<String> {
        let compiler = compiler().await;
        let mut node = Command::new("node");
        node.arg(compiler).args(["--pretty", "false"]);
        let output = finished(node.current_dir(self.folder.path())).await;
        let said = String::from_utf8(output.stdout).unwrap();
        let mut errors: Vec<String> = Vec::new();
        for line in said.lines() {
            match errors.last_mut() {
                Some(last) if line.starts_with(' ') => {
                    last.push('\n');
                    last.push_str(line);
                }
                _ => errors.push(line.to_owned()),
            }
        }
        assert_eq!(output.status.success(), errors.is_empty(), "{said}");
        errors
    }

    /// Runs `out/<name>` under Node with nothing but this environment; what it printed, line by line.
    pub async fn run(&self, name: &str, env: &[(&str, &str)]) -> Vec<String> {
        let mut node = Command::new("node");
        node.env_clear()
            .envs(env.iter().copied())
            .env("PATH", std::env::var_os("PATH").unwrap())
            .arg(self.path(&format!("out/{name}")));
        let output = finished(&mut node).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{complained}");
        said.lines().map(str::to_owned).collect()
    }
}

/// The compiler, fetched when it is not there yet.
async fn compiler() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/typescript.sh");
    let output = finished(&mut Command::new(script)).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

async fn finished(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(120), command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} does not end"))
        .unwrap()
}
