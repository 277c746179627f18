//! Words that labels of metrics are made of, beside those that the rest of the
//! program has anyway.

macro_rules! words {
    ($(#[$doc:meta])* $kind:ident { $($(#[$word_doc:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$word_doc])* $name,)*
        }

        impl $kind {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As a label has it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

words! {
    /// What a provider of instances is asked.
    ProviderCall {
        /// One more instance.
        Launch = "launch",
        /// The end of one.
        Terminate = "terminate",
        /// A machine's stop, which can be taken back.
        Stop = "stop",
        /// A stopped machine's start.
        Start = "start",
        /// A machine's new start.
        Reboot = "reboot",
        /// All machines of this deployment.
        List = "list",
        /// Whether machines are well.
        Check = "check",
        /// Which image machines are made of.
        Image = "image",
        /// The one-time token, for its machine.
        GiveToken = "give_token",
        /// The one-time token's end.
        TakeToken = "take_token",
        /// A command on a machine whose link is down.
        Rescue = "rescue",
    }
}

words! {
    /// What the answer of a provider says about what was done.
    Answer {
        /// It was done.
        Accepted = "accepted",
        /// It was not done, for sure.
        Refused = "refused",
        /// It may have been done.
        Unknown = "unknown",
        /// It was not done, since we ask too often.
        Throttled = "throttled",
    }
}

words! {
    /// What belongs to nothing.
    Orphan {
        /// A machine that no row knows.
        Machine = "machine",
        /// A row whose machine is gone.
        Row = "row",
        /// A link without a lease.
        Link = "link",
    }
}
