//! What mails say, as text and as HTML. Nothing that a stranger typed is in them.

use std::time::Duration;

const TEXT: &str = include_str!("letters/letter.txt");
const HTML: &str = include_str!("letters/letter.html");

/// A mail, but for whom it is.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) subject: &'static str,
    pub(super) text: String,
    pub(super) html: String,
}

/// What a link in a mail is for, and where it leads below the public URL. What is
/// after the `#` never leaves the browser.
struct Link<'a> {
    label: &'static str,
    path: &'static str,
    token: &'a str,
}

pub(super) fn verification(public_url: &str, token: &str, life: Duration) -> Letter {
    letter(
        "Confirm your e-mail address",
        &format!(
            "Somebody made a Browserfleet account with this address. If it was you, confirm \
             the address within {}.",
            minutes(life)
        ),
        Some((
            public_url,
            Link {
                label: "Confirm the address",
                path: "verify-email",
                token,
            },
        )),
        "If it was not you, do nothing: the account cannot be used, and goes away by itself.",
    )
}

pub(super) fn email_change(public_url: &str, token: &str, life: Duration) -> Letter {
    letter(
        "Confirm your new e-mail address",
        &format!(
            "A Browserfleet account is to have this address from now on. If that is right, \
             confirm it within {}.",
            minutes(life)
        ),
        Some((
            public_url,
            Link {
                label: "Confirm the address",
                path: "verify-email",
                token,
            },
        )),
        "If it is not, do nothing.",
    )
}

pub(super) fn email_is_changing() -> Letter {
    letter(
        "Your e-mail address is being changed",
        "Somebody who is signed in to your Browserfleet account asked to change its address \
         to another one, which was written to.",
        None,
        "If it was not you, change your password now: that ends all other logins.",
    )
}

pub(super) fn already_registered(public_url: &str) -> Letter {
    letter(
        "You have an account already",
        &format!(
            "Somebody tried to make a Browserfleet account with this address, which has one. \
             Sign in at {public_url}, or ask there for a new password."
        ),
        None,
        "If it was not you, do nothing: nothing was changed.",
    )
}

pub(super) fn reset(public_url: &str, token: &str, life: Duration) -> Letter {
    letter(
        "Set a new password",
        &format!(
            "Somebody asked to set a new password for your Browserfleet account. If it was \
             you, do so within {}. All logins end with it.",
            minutes(life)
        ),
        Some((
            public_url,
            Link {
                label: "Set a new password",
                path: "reset-password",
                token,
            },
        )),
        "If it was not you, do nothing: your password is as it was.",
    )
}

pub(super) fn password_changed() -> Letter {
    letter(
        "Your password was changed",
        "The password of your Browserfleet account was changed, and all other logins ended.",
        None,
        "If it was not you, ask for a new password at once, and tell your administrator.",
    )
}

pub(super) fn invitation(public_url: &str, token: &str) -> Letter {
    letter(
        "You are invited to Browserfleet",
        "An administrator invites you to make an account with this address. The invitation \
         counts for 7 days.",
        Some((
            public_url,
            Link {
                label: "Make an account",
                path: "accept-invitation",
                token,
            },
        )),
        "If you do not know what this is about, do nothing.",
    )
}

fn letter(
    subject: &'static str,
    says: &str,
    link: Option<(&str, Link<'_>)>,
    otherwise: &str,
) -> Letter {
    let (mut in_text, mut in_html) = (String::new(), String::new());
    if let Some((public_url, Link { label, path, token })) = link {
        let address = format!("{public_url}/{path}#token={token}");
        in_text = format!("{label}:\n{address}\n\n");
        in_html = format!(
            "<p><a href=\"{0}\">{label}</a></p><p style=\"color: gray\">{0}</p>",
            escaped(&address)
        );
    }
    let fill = |template: &str, link: &str, escape: fn(&str) -> String| {
        template
            .replace("{subject}", &escape(subject))
            .replace("{says}", &escape(says))
            .replace("{link}", link)
            .replace("{otherwise}", &escape(otherwise))
    };
    Letter {
        subject,
        text: fill(TEXT, &in_text, str::to_owned),
        html: fill(HTML, &in_html, escaped),
    }
}

fn minutes(life: Duration) -> String {
    format!("{} minutes", life.as_secs() / 60)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_has_its_link_in_both_forms() {
        let letter = reset("https://fleet.example", "abc", Duration::from_secs(600));
        for body in [&letter.text, &letter.html] {
            assert!(body.contains("https://fleet.example/reset-password#token=abc"));
            assert!(body.contains("10 minutes"));
            assert!(!body.contains('{'), "{body}");
        }
    }
}
