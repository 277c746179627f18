//! Ends the machine, by the program that whoever made it named.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long the program may take to ask for the end.
const ASKS_WITHIN: Duration = Duration::from_secs(30);

/// Runs the program. That it did not work is logged: the agent's own end comes next in
/// any case, and whoever starts it again tries again.
pub async fn off(program: &Path) {
    let name = program.display();
    tracing::error!(program = %name, "ending this machine");
    let asking = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .status();
    match timeout(ASKS_WITHIN, asking).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::error!(program = %name, %status, "could not end this machine"),
        Ok(Err(error)) => tracing::error!(program = %name, %error, "could not end this machine"),
        Err(_) => tracing::error!(program = %name, "it takes too long to end this machine"),
    }
}
