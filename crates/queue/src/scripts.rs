//! The scripts: each is a change of state that happens whole or not at all.
//!
//! They are called by the hash of their text and loaded when Redis does not know it, so two releases run side by side.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $doc:literal, $($part:expr),+) => {
        #[doc = $doc]
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("lua/common.lua"), $($part),+)));
    };
}

script!(ENQUEUE, "Adds jobs.", include_str!("lua/arrive.lua"), include_str!("lua/enqueue.lua"));
script!(
    STEP,
    "Ends jobs and takes the next ones.",
    // A call that ends nothing does not pay for the functions that do.
    "local function end_results(now, next_arg)\n",
    include_str!("lua/arrive.lua"),
    include_str!("lua/finish.lua"),
    include_str!("lua/end.lua"),
    "end\n",
    include_str!("lua/step.lua"),
    include_str!("lua/take.lua")
);
script!(
    CALLED,
    "Takes jobs by the ticket that has just been read.",
    include_str!("lua/called.lua"),
    include_str!("lua/take.lua")
);
script!(
    TICK,
    "Keeps the queue in order.",
    include_str!("lua/arrive.lua"),
    include_str!("lua/finish.lua"),
    include_str!("lua/tick.lua")
);
script!(BEAT, "Says that jobs still run.", include_str!("lua/beat.lua"));
script!(
    DISCARD,
    "Removes jobs that do not run.",
    include_str!("lua/arrive.lua"),
    include_str!("lua/finish.lua"),
    include_str!("lua/discard.lua")
);
script!(LEAVE, "Gives back what a stopping worker did not use.", include_str!("lua/leave.lua"));

/// Charges budgets; knows no queue.
pub(crate) static LIMITS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/limits.lua")));

/// Looks for failed jobs that were not copied yet, and notes those that were; changes no state.
pub(crate) static DEAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/dead.lua")));
