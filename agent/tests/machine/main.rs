//! The agent's real program, from the start of its machine to its end: a small control
//! plane, metadata service and SSM stand around it.
#![expect(clippy::unwrap_used, reason = "a test fails where it expects")]

mod agent;
mod control_plane;
#[path = "../../src/host/scene.rs"]
#[expect(dead_code, reason = "the unit tests ask more of it")]
mod scene;
/// Where the scene looks for it.
mod tasks {
    pub use browserfleet_agent::tasks::spawn;
}

use std::time::Duration;

use agent::{MACHINE, Machine, cloud};
use browserfleet_proto::action::{BrowserKind, DialogPolicy, SessionOptions, Viewport};
use browserfleet_proto::agent::v1::from_agent::Body as Said;
use browserfleet_proto::agent::v1::notice::Kind;
use browserfleet_proto::agent::v1::to_agent::Body;
use browserfleet_proto::agent::v1::{OpenSession, Recycle, Restart};
use browserfleet_proto::ids::SessionId;
use control_plane::{Authority, ControlPlane, Serving, TOKEN};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use scene::Answer;
use tokio::time::{Instant, sleep};

/// How long a test waits for something.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const ANY_PORT: &str = "127.0.0.1:0";

/// Waits until there is one.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let latest = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < latest, "{what} never came");
        sleep(LOOK_EVERY).await;
    }
}

async fn serve(control_plane: &ControlPlane) -> Serving {
    control_plane.serve(ANY_PORT, &control_plane.signs).await
}

fn end(agent: &agent::Agent) {
    kill(Pid::from_raw(agent.id()), Signal::SIGTERM).unwrap();
}

/// The processes of a user, with their command lines.
fn processes_of(user: &str) -> Vec<(Pid, String)> {
    let user = nix::unistd::User::from_name(user).unwrap().unwrap();
    let of_user = |entry: std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|it| it.strip_prefix("Uid:"))?;
        let own = line.split_whitespace().next()?.parse() == Ok(user.uid.as_raw());
        let process = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (own && !status.contains("State:\tZ")).then_some((Pid::from_raw(process), line))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(of_user).collect()
}

async fn all_end(user: &str) {
    eventually("the browsers' end", || {
        processes_of(user).is_empty().then_some(())
    })
    .await;
}

async fn open_session(control_plane: &ControlPlane, epoch: u64) -> String {
    let id = SessionId::new().to_string();
    let options = SessionOptions {
        browser: BrowserKind::Full,
        viewport: Viewport {
            width: 640,
            height: 480,
            scale: 1.0,
        },
        user_agent: String::new(),
        locale: String::new(),
        timezone: String::new(),
        dialogs: DialogPolicy::Dismiss,
    };
    control_plane.say(Body::OpenSession(OpenSession {
        session_id: id.clone(),
        epoch,
        options: Some((&options).into()),
        timeout_ms: 15_000,
    }));
    let opened = |said: &Said| match said {
        Said::SessionOpened(it) if it.session_id == id => Some(it.rejection.clone()),
        _ => None,
    };
    assert_eq!(control_plane.said(opened).await, None);
    id
}

/// Why a session ended.
async fn ended(control_plane: &ControlPlane, session: &str) -> String {
    let ended = |said: &Said| match said {
        Said::SessionEnded(it) if it.session_id == session => Some(it.reason.clone()),
        _ => None,
    };
    control_plane.said(ended).await
}

#[tokio::test]
async fn an_instance_joins_once_and_goes_on_as_itself_after_a_crash() {
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;
    let cloud = cloud(TOKEN).await;
    let mut machine = Machine::ec2(serving.address, &cloud);
    machine.set("SPARES", "1");
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());

    let mut agent = machine.start(None).await;
    let first = control_plane.hello(1).await;
    let joins = control_plane.joins();
    assert_eq!((joins.len(), joins[0].machine.as_str()), (1, MACHINE));
    let phases: Vec<_> = first
        .boot_phases
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    let without_browser: Vec<_> = phases.into_iter().filter(|it| *it != "browser").collect();
    assert_eq!(without_browser, ["kernel", "agent", "token", "joined"]);
    let deleted = || {
        let asked = cloud.asked();
        let deleted = |it: &&(String, String)| it.0 == "DeleteParameter" && it.1.contains(MACHINE);
        asked.iter().find(deleted).map(drop)
    };
    eventually("the parameter's end", deleted).await;

    agent.child.kill().await.unwrap();
    // A second token would not be good, and there is none.
    cloud.set("GetParameter", Answer::status(500));
    let agent = machine.start(None).await;
    let second = control_plane.hello(2).await;
    assert_ne!(first.boot_id, second.boot_id);
    assert_eq!(control_plane.joins().len(), 1);
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
    assert!(!machine.is_off());
}

#[tokio::test]
async fn a_certificate_that_ended_is_said_and_needs_a_token() {
    let mut control_plane = ControlPlane::new();
    // Less than a process begins with.
    control_plane.life = Duration::from_secs(60);
    let serving = serve(&control_plane).await;
    let machine = Machine::local(serving.address);
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let agent = machine.start(Some(&format!("{TOKEN}\n"))).await;
    control_plane.hello(1).await;
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));

    let (code, said) = machine.start(None).await.ends().await;
    assert_eq!(code, Some(1));
    assert_eq!(
        said.matches("the certificate has ended").count(),
        1,
        "{said}"
    );
    let agent = machine.start(Some(&format!("{TOKEN}\n"))).await;
    control_plane.hello(2).await;
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
}

#[tokio::test]
async fn an_authority_that_was_told_is_trusted_at_the_next_dial_and_start() {
    let mut control_plane = ControlPlane::new();
    let next = Authority::new();
    control_plane.tells = vec![control_plane.signs.clone(), next.clone()];
    let serving = serve(&control_plane).await;
    let address = serving.address.to_string();
    let machine = Machine::local(serving.address);
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let agent = machine.start(Some(&format!("{TOKEN}\n"))).await;
    control_plane.hello(1).await;

    serving.stop(&control_plane).await;
    let serving = control_plane.serve(&address, &next).await;
    control_plane.hello(2).await;
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
    let agent = machine.start(None).await;
    control_plane.hello(3).await;
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
    serving.stop(&control_plane).await;
}

#[tokio::test]
async fn told_to_restart_it_ends_its_sessions_says_so_and_exits_with_four() {
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;
    let machine = Machine::local(serving.address);
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let agent = machine.start(Some(&format!("{TOKEN}\n"))).await;
    control_plane.hello(1).await;
    let session = open_session(&control_plane, 1).await;
    let reason = "a new version".to_owned();
    control_plane.say(Body::Restart(Restart { reason }));
    assert_eq!(agent.ends().await.0, Some(4));
    assert_eq!(ended(&control_plane, &session).await, "agent_restarted");
    assert!(!machine.is_off());
    let agent = machine.start(None).await;
    assert!(control_plane.hello(2).await.held_sessions.is_empty());
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
}

#[tokio::test]
async fn a_machine_of_no_use_is_ended() {
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;

    let cloud = cloud("somebody else's").await;
    let refused = Machine::ec2(serving.address, &cloud);
    control_plane
        .signs
        .write(refused.file("ca.pem").parent().unwrap());
    let (code, said) = refused.start(None).await.ends().await;
    assert_eq!(code, Some(3), "{said}");
    assert!(refused.is_off(), "{said}");

    // Never heard of: nobody listens there.
    let mut alone = Machine::local("127.0.0.1:1".parse().unwrap());
    alone.set("DEAD_MAN_MS", "1000");
    control_plane
        .signs
        .write(alone.file("ca.pem").parent().unwrap());
    let (code, said) = alone.start(Some("any\n")).await.ends().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no control plane for 1 s"), "{said}");
    assert!(alone.is_off(), "{said}");

    // Badly configured is not useless.
    let mut wrong = Machine::local(serving.address);
    wrong.set("BROWSER_USER", "root");
    assert_eq!(wrong.start(None).await.ends().await.0, Some(2));
    assert!(!wrong.is_off());
}

#[tokio::test]
async fn a_notice_of_ec2_reaches_the_control_plane_once() {
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;
    let cloud = cloud(TOKEN).await;
    let machine = Machine::ec2(serving.address, &cloud);
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let agent = machine.start(None).await;
    control_plane.hello(1).await;
    let at = time::OffsetDateTime::now_utc() + Duration::from_secs(120);
    let at = at.format(&time::format_description::well_known::Rfc3339);
    let action = format!(r#"{{"action": "terminate", "time": "{}"}}"#, at.unwrap());
    cloud.set(
        "/latest/meta-data/spot/instance-action",
        Answer::ok(&action),
    );
    let interrupted = |said: &Said| match said {
        Said::Notice(it) if it.kind() == Kind::Interruption => Some(it.seconds_left),
        _ => None,
    };
    let left = control_plane.said(interrupted).await;
    assert!((80..=120).contains(&left), "{left}");
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
}

/// Only root can become another user.
fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        eprintln!("left out: the test does not run as root");
    }
    root
}

#[tokio::test]
async fn browsers_of_another_user_end_with_an_agent_that_is_killed() {
    if !is_root() {
        return;
    }
    let user = "irc";
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;
    let mut machine = Machine::local(serving.address);
    machine.set("BROWSER_USER", user);
    machine.set("ISOLATION", "off");
    machine.set("SPARES", "1");
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let mut agent = machine.start(Some(&format!("{TOKEN}\n"))).await;
    control_plane.hello(1).await;
    open_session(&control_plane, 1).await;
    let browsers = || {
        let mut all = processes_of(user);
        all.retain(|it| it.1.contains("--remote-debugging-pipe") && !it.1.contains("--type="));
        (all.len() == 2).then_some(all)
    };
    let browsers = eventually("a session's browser and a spare", browsers).await;
    // One that hangs does not notice that its pipe is closed.
    for (browser, _) in browsers {
        kill(browser, Signal::SIGSTOP).unwrap();
    }
    agent.child.kill().await.unwrap();
    all_end(user).await;
}

#[tokio::test]
async fn nothing_of_a_lease_that_is_over_is_left() {
    if !is_root() {
        return;
    }
    let user = "games";
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;
    let mut machine = Machine::local(serving.address);
    machine.set("BROWSER_USER", user);
    machine.set("ISOLATION", "off");
    machine.set("SPARES", "1");
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let agent = machine.start(Some(&format!("{TOKEN}\n"))).await;
    control_plane.hello(1).await;
    let session = open_session(&control_plane, 7).await;
    // What a page that broke out of Chrome could leave: a process that hides from its
    // group, and a file elsewhere.
    let file = std::env::temp_dir().join(format!("left-by-{}", agent.id()));
    let hidden = std::process::Command::new("setpriv")
        .args([
            "--reuid=games",
            "--regid=games",
            "--clear-groups",
            "--",
            "setsid",
            "sh",
            "-c",
        ])
        .arg(format!("echo secret > {}; exec sleep 600", file.display()))
        .spawn();
    let mut hidden = hidden.unwrap();
    eventually("the file", || file.exists().then_some(())).await;
    let browsers = machine.data().join("browsers");
    let folders = || std::fs::read_dir(&browsers).unwrap().count();
    let before: Vec<_> = std::fs::read_dir(&browsers).unwrap().flatten().collect();

    control_plane.say(Body::Recycle(Recycle { epoch: 6 }));
    let answered = |epoch: u64| {
        move |said: &Said| match said {
            Said::Recycled(it) if it.epoch == epoch => Some(it.residue.clone()),
            _ => None,
        }
    };
    let refused = control_plane.said(answered(6)).await;
    assert!(refused[0].contains("newer lease"), "{refused:?}");
    control_plane.say(Body::Recycle(Recycle { epoch: 7 }));
    let residue = control_plane.said(answered(7)).await;
    assert_eq!(residue, [] as [String; 0]);
    assert_eq!(ended(&control_plane, &session).await, "recycled");
    assert!(!file.exists());
    assert!(hidden.wait().unwrap().code().is_none(), "it was killed");
    // The spare is a new one.
    eventually("a spare", || (folders() == 1).then_some(())).await;
    assert!(before.iter().all(|it| !it.path().exists()));
    open_session(&control_plane, 8).await;
    end(&agent);
    assert_eq!(agent.ends().await.0, Some(0));
    all_end(user).await;
}

#[tokio::test]
async fn an_agent_whose_browsers_could_reach_the_metadata_service_does_not_join() {
    if !is_root() {
        return;
    }
    let control_plane = ControlPlane::new();
    let serving = serve(&control_plane).await;
    let cloud = cloud(TOKEN).await;
    let mut machine = Machine::ec2(serving.address, &cloud);
    machine.set("BROWSER_USER", "nobody");
    control_plane
        .signs
        .write(machine.file("ca.pem").parent().unwrap());
    let (code, said) = machine.start(None).await.ends().await;
    assert_eq!(code, Some(1), "{said}");
    let open = "the packet filter is open: nobody reaches the metadata service";
    assert_eq!(said.matches(open).count(), 1, "{said}");
    assert!(control_plane.joins().is_empty());
    assert!(cloud.asked().is_empty());
}
