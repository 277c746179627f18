//! A throwaway Postgres: a cluster of its own in a temporary folder, on a socket
//! and no port.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// A running Postgres. Dropping it stops and removes it.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
}

impl Postgres {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// Where Postgres is not installed, or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let postgres = Self {
            programs: programs()?,
            folder,
        };
        // Postgres does not run as root.
        if nix::unistd::geteuid().is_root() {
            std::fs::set_permissions(postgres.folder.path(), PermissionsExt::from_mode(0o777))?;
        }
        let data = postgres.data();
        let data = data.to_str().context("a folder without a readable name")?;
        postgres.run(
            "initdb",
            &[
                "-D",
                data,
                "-U",
                "browserfleet",
                "-A",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
            ],
        )?;
        let socket = postgres.folder.path().display();
        let options =
            format!("-c listen_addresses= -c unix_socket_directories={socket} -c fsync=off");
        postgres.run(
            "pg_ctl",
            &[
                "-D",
                data,
                "-w",
                "-o",
                &options,
                "-l",
                &format!("{data}/log"),
                "start",
            ],
        )?;
        Ok(postgres)
    }

    /// Makes an empty database and gives its URL.
    ///
    /// # Errors
    /// Where there is one of this name.
    pub fn database(&self, name: &str) -> anyhow::Result<String> {
        let socket = self.folder.path().display().to_string();
        self.run("createdb", &["-h", &socket, "-U", "browserfleet", name])?;
        Ok(format!(
            "postgres://browserfleet@localhost/{name}?host={}",
            socket.replace('/', "%2F")
        ))
    }

    /// Runs one statement and gives what it printed.
    ///
    /// # Errors
    /// Where it fails.
    pub fn query(&self, database: &str, statement: &str) -> anyhow::Result<String> {
        let socket = self.folder.path().display().to_string();
        self.run(
            "psql",
            &[
                "-h",
                &socket,
                "-U",
                "browserfleet",
                "-At",
                "-c",
                statement,
                database,
            ],
        )
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let path = self.programs.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args([
                    "--reuid=postgres",
                    "--regid=postgres",
                    "--clear-groups",
                    "--",
                ])
                .arg(path);
            command
        } else {
            Command::new(path)
        };
        // What `pg_ctl` leaves running must not hold our pipes.
        let log = tempfile::tempfile()?;
        let output = command
            .args(arguments)
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log.try_clone()?)
            .status()
            .with_context(|| format!("could not run {program}"))?;
        let text = read(log)?;
        ensure!(output.success(), "{program}: {text}");
        Ok(text.trim().to_owned())
    }
}

fn read(mut file: std::fs::File) -> anyhow::Result<String> {
    use std::io::{Read, Seek};
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.data();
        if let Some(data) = data.to_str()
            && let Err(error) = self.run("pg_ctl", &["-D", data, "-m", "immediate", "-w", "stop"])
        {
            eprintln!("could not stop Postgres: {error}");
        }
    }
}

/// Debian keeps each version's programs apart.
fn programs() -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .context("Postgres is not installed; run: apt-get install postgresql")?;
    versions
        .flatten()
        .map(|it| it.path().join("bin"))
        .filter(|it| Path::new(it).join("initdb").exists())
        .max()
        .context("Postgres has no initdb")
}
