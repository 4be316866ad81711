//! The scripts: each is a change of state that happens whole or not at all.
//!
//! They are called by the hash of their text and loaded when Redis does not know it, so two releases run side by side.

use std::sync::LazyLock;

use redis::Script;

macro_rules! script {
    ($name:ident, $file:literal, $doc:literal) => {
        #[doc = $doc]
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("lua/prelude.lua"), include_str!($file))));
    };
}

script!(ENQUEUE, "lua/enqueue.lua", "Adds jobs.");
script!(STEP, "lua/step.lua", "Ends jobs and takes the next ones.");
script!(TICK, "lua/tick.lua", "Keeps the queue in order.");
script!(BEAT, "lua/beat.lua", "Says that jobs still run.");
script!(DISCARD, "lua/discard.lua", "Removes jobs that do not run.");
script!(LEAVE, "lua/leave.lua", "Gives back what a stopping worker did not use.");

/// Charges budgets; knows no queue.
pub(crate) static LIMITS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/limits.lua")));

/// Looks for failed jobs that were not copied yet, and notes those that were; changes no state.
pub(crate) static DEAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/dead.lua")));
