//! A whole history as a value: what is done, when, in what kind of world. Drawn from a seed, written
//! down, made shorter, and played.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use reconvene_core::mutants::Mutants;
use serde::{Deserialize, Serialize};

use crate::action::{Action, DEVICES, Failure, SERVER, Stage};
use crate::documents::kind_of;
use crate::edits::ModelEdit;
use crate::history::{DOCUMENTS, Ending, Outcome, end, enter};
use crate::world::{NodeId, Observer, Settings, World, workspace};

/// What a history is to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Anything may go wrong anywhere; when everything has healed, nothing is lost.
    Safety,
    /// The server and one device stay well, and agree in time whatever befalls the others.
    Liveness,
}

/// Something that is done, after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds that pass before it.
    pub after: u64,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
}

/// A history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What the world's own chances follow from.
    pub seed: u64,
    /// What it is to show.
    pub mode: Mode,
    /// How long things take.
    pub settings: Settings,
    /// How far the devices' wall clocks are from the server's, in milliseconds.
    pub skews: [i64; 3],
    /// Whether the devices are shared with each other, too.
    pub direct: bool,
    /// Whether a device of another member lies.
    pub liar: bool,
    /// Whether documents are real ones.
    #[serde(default, skip_serializing_if = "is_false")]
    pub real: bool,
    /// What is done.
    pub steps: Vec<Step>,
}

fn is_false(is: &bool) -> bool {
    !is
}

/// The fewest actions of a history.
const ACTIONS_MIN: usize = 300;

/// How many more there may be.
const ACTIONS_MORE: usize = 60;

/// By how many milliseconds reads are late where they are.
const LATE: u64 = 1_500;

/// How many links are lost just when something of a peer is being stored, where they are.
const CUTS_WHILE_TAKING: usize = 8;

/// Commands that are issued, each perhaps by several.
const COMMANDS: u64 = 24;

/// Within this the well part of a world agrees on what it held before, whatever befalls the rest; in
/// milliseconds.
const AGREES_WITHIN: u64 = 30_000;

/// The device that stays well where only the others do not.
const WELL: NodeId = DEVICES[0];

impl Plan {
    /// The history of a seed.
    pub fn of(seed: u64, mode: Mode) -> Self {
        Draw::new(seed, mode).plan()
    }

    /// Plays it with engines that carry these mutants; the same plan gives the same outcome. Whatever
    /// happens is told to the observer.
    ///
    /// # Panics
    /// If anything that must hold does not; the message says what, and when.
    pub fn play(&self, mutants: Mutants, observer: Option<Observer>) -> Outcome {
        let mut world = World::new(self.seed);
        world.observer = observer;
        world.settings = self.settings;
        world.mutants = mutants;
        world.real = self.real;
        let mut skews = self.skews.into_iter();
        let skew = |_: &mut World| skews.next().unwrap_or_default();
        enter(&mut world, skew, self.direct, self.liar);
        let mut stage = Stage::new(world);
        let mut held = None;
        for (place, step) in self.steps.iter().enumerate() {
            if self.mode == Mode::Liveness && 2 * place == self.steps.len() {
                held = Some(Held::now(&stage.world));
            }
            stage.world.advance(Duration::from_millis(step.after));
            stage.act(step.action);
        }
        if let Some(held) = held {
            held.check(&mut stage.world);
        }
        let changes = end(&mut stage, self.ending());
        Outcome::of(stage, changes)
    }

    fn ending(&self) -> Ending {
        let actions = || self.steps.iter().map(|step| step.action);
        let rotten = actions().find_map(|action| match action {
            Action::Rot { node, .. } => Some(node),
            _ => None,
        });
        let loses =
            actions().any(|action| matches!(action, Action::Wipe { .. } | Action::RollBack { .. }));
        Ending {
            // What one of them lost only the server may have.
            alone: self.direct && !loses && rotten.is_none() && self.mode == Mode::Safety,
            rotten,
            purges: actions().any(|action| matches!(action, Action::Purge { .. })),
        }
    }

    /// The same as text: its world in the first line, a step in each other.
    pub fn to_text(&self) -> String {
        let mut head = self.clone();
        let steps = std::mem::take(&mut head.steps);
        let line = |value: Result<String, serde_json::Error>| {
            value.expect("a plan is made of names and numbers") + "\n"
        };
        let steps = steps.iter().map(|step| line(serde_json::to_string(step)));
        line(serde_json::to_string(&head)) + &steps.collect::<String>()
    }

    /// Reads what [`Self::to_text`] wrote; lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// If a line is not what it should be: which, and why.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let lines = (1..).zip(text.lines());
        let mut lines = lines.filter(|(_, line)| !line.starts_with('#') && !line.is_empty());
        let bad = |number: i32, error: serde_json::Error| format!("line {number}: {error}");
        let (number, head) = lines.next().ok_or("it is empty")?;
        let mut plan: Self = serde_json::from_str(head).map_err(|error| bad(number, error))?;
        for (number, line) in lines {
            let step = serde_json::from_str(line).map_err(|error| bad(number, error))?;
            plan.steps.push(step);
        }
        Ok(plan)
    }
}

/// What the well part of a world held at a moment.
struct Held {
    at: u64,
    facts: BTreeMap<NodeId, std::collections::BTreeSet<crate::world::Fact>>,
}

impl Held {
    fn now(world: &World) -> Self {
        let well = [SERVER, WELL].into_iter();
        let facts = well.map(|node| (node, world.held(node, workspace(1))));
        Self {
            at: world.now(),
            facts: facts.collect(),
        }
    }

    /// Each has by now what the other had then, and knows that it is fresh.
    fn check(&self, world: &mut World) {
        let left = (self.at + AGREES_WITHIN).saturating_sub(world.now());
        world.advance(Duration::from_millis(left));
        for node in [SERVER, WELL] {
            let holds = world.held(node, workspace(1));
            for (other, facts) in &self.facts {
                let lacking = facts.difference(&holds);
                // What was to be purged since is not counted as held.
                let purged: Vec<_> = world.purged().collect();
                let mut lacking = lacking.filter(|fact| !purged.contains(&&(fact.0, fact.1)));
                let lacking = lacking.next();
                assert_eq!(
                    lacking, None,
                    "seed {}: node {node} lacks what node {other} held {} ms ago",
                    world.seed, AGREES_WITHIN
                );
            }
        }
        world.check_fresh(WELL, SERVER, workspace(1));
    }
}

/// What may happen in one history; each seed turns only some of it on.
struct Draw {
    rng: ChaCha8Rng,
    seed: u64,
    mode: Mode,
    cuts: bool,
    partitions: bool,
    one_way: bool,
    crashes: bool,
    sleeps: bool,
    clocks: bool,
    slow: bool,
    failures: bool,
    compactions: bool,
    purges: bool,
    direct: bool,
    liar: bool,
    /// Whether documents are real ones. One history in four has them: it takes about as long as another
    /// two, and most of what goes wrong between engines does whatever the documents are.
    real: bool,
    archives: bool,
    upgrades: bool,
    /// Whether reads are answered late now and then.
    late: bool,
    /// Whether links are lost just when something of a peer is being stored.
    cuts_while_taking: bool,
    /// What draws all that came after the rest.
    more: ChaCha8Rng,
    /// What a node loses of its past.
    loses: Loses,
    /// Which node that is: two that lose their past can lose it for good, since one may hold what the
    /// other's journal let go.
    victim: NodeId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loses {
    Nothing,
    /// All of it, now and then.
    Everything,
    /// What came since a copy was taken.
    Time,
    /// A record now and then.
    Records,
}

impl Draw {
    fn new(seed: u64, mode: Mode) -> Self {
        // By a generator of its own, so that the other histories are what they were without it.
        let mut more = ChaCha8Rng::seed_from_u64(seed ^ 0x4ea1_0000_0000_0000);
        // Apart from what the world's chances follow from.
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed_0000_0000_0000);
        let mut on = |one_in: u64| rng.next_u64().is_multiple_of(one_in);
        let mut draw = Self {
            cuts: on(2),
            partitions: on(3),
            one_way: on(4),
            crashes: on(2),
            sleeps: on(4),
            clocks: on(4),
            slow: on(6),
            failures: on(3),
            compactions: on(3),
            purges: on(5),
            direct: on(3),
            liar: on(6),
            real: more.next_u64().is_multiple_of(4),
            archives: more.next_u64().is_multiple_of(3),
            upgrades: more.next_u64().is_multiple_of(3),
            late: more.next_u64().is_multiple_of(3),
            cuts_while_taking: more.next_u64().is_multiple_of(3),
            loses: match seed % 6 {
                0 | 1 => Loses::Everything,
                2 => Loses::Time,
                3 => Loses::Records,
                _ => Loses::Nothing,
            },
            victim: 0,
            seed,
            mode,
            rng,
            more,
        };
        draw.victim = draw.node();
        // Whoever lies may say that it holds what nobody else does by now.
        draw.liar &= draw.loses == Loses::Nothing;
        if !(draw.cuts || draw.partitions || draw.one_way || draw.crashes || draw.sleeps) {
            draw.cuts = true;
        }
        draw
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn count(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).expect("it is small")
    }

    /// One of those to whom anything may happen.
    fn node(&mut self) -> NodeId {
        match self.mode {
            Mode::Safety => self.count(4),
            Mode::Liveness => 2 + self.count(2),
        }
    }

    fn document(&mut self) -> u64 {
        self.below(DOCUMENTS)
    }

    fn plan(mut self) -> Plan {
        let settings = match self.one_in(2) {
            true => Settings::default(),
            false => Settings {
                latency: (1, 120),
                read: (0, 20),
                write: (0, 40),
                completion: (0, 10),
                late: 0,
            },
        };
        let late = if self.late { LATE } else { 0 };
        let settings = Settings { late, ..settings };
        let skews = DEVICES.map(|_| self.skew());
        let actions = ACTIONS_MIN + self.count(ACTIONS_MORE as u64);
        let steps = (0..actions).map(|_| {
            let after = match self.below(8) {
                0..=3 => 0,
                4..=6 => self.below(300),
                _ => self.below(2_000),
            };
            let action = self.action();
            Step { after, action }
        });
        let mut steps: Vec<_> = steps.collect();
        if self.cuts_while_taking {
            self.cut_while_taking(&mut steps);
        }
        Plan {
            seed: self.seed,
            mode: self.mode,
            settings,
            skews,
            direct: self.direct,
            liar: self.liar,
            real: self.real,
            steps,
        }
    }

    /// Has links cut at moments that chance seldom hits, in the place of a few of these steps.
    fn cut_while_taking(&mut self, steps: &mut [Step]) {
        for _ in 0..CUTS_WHILE_TAKING {
            let mut draw = |bound: usize| {
                let drawn = self.more.next_u64() % bound as u64;
                usize::try_from(drawn).expect("it is below a usize")
            };
            let place = draw(steps.len());
            let node = match self.mode {
                Mode::Safety => draw(4),
                // Not the two that are to agree, from each other.
                Mode::Liveness => 2 + draw(2),
            };
            let retaken = draw(4) > 0;
            steps[place].action = Action::CutWhileTaking { node, retaken };
        }
    }

    fn skew(&mut self) -> i64 {
        i64::try_from(self.below(1_200_000)).expect("it is small") - 600_000
    }

    fn action(&mut self) -> Action {
        let node = self.node();
        let other = match self.mode {
            Mode::Safety => (node + 1 + self.count(3)) % 4,
            // The others may be lost to the server, but not the one that is to agree with it.
            Mode::Liveness => [SERVER, 5 - node][self.count(2)],
        };
        let (one, from, to) = (node, node, other);
        match self.below(40) {
            0 | 1 if self.cuts => Action::Cut { one, other },
            2 if self.partitions => Action::Part { one, other },
            3 if self.one_way => match self.one_in(2) {
                true => Action::Mute { from, to },
                false => Action::Mute { from: to, to: from },
            },
            4 | 5 if self.partitions || self.one_way => Action::Heal { one, other },
            6 | 7 if self.crashes => Action::Crash {
                node,
                kept: self.count(3),
                quietly: self.one_in(3),
            },
            8..=10 if self.crashes || self.failures => Action::Restart { node },
            11 if self.sleeps => Action::Sleep { node },
            12 | 13 if self.sleeps => Action::Wake { node },
            14 if self.clocks => Action::Skew {
                node,
                ms: self.skew(),
            },
            15 if self.slow && self.mode == Mode::Safety => Action::Slow {
                slow: self.one_in(2),
            },
            16 if self.failures => self.fail(node),
            17 | 18 if self.compactions || self.purges => Action::Compact {
                node,
                document: self.document(),
            },
            19 if self.purges && self.one_in(2) => Action::Purge {
                document: self.document(),
            },
            20 | 21 => self.lose(),
            22 if self.direct && node != SERVER && other != SERVER => Action::Connect { node, to },
            23 if node != SERVER => Action::Disconnect { node, from: other },
            24 => Action::Roam { node },
            25 => Action::Resume { node },
            26 => Action::Evict { node },
            27 => Action::Refresh { node },
            28 if self.one_in(3) && self.mode == Mode::Safety => Action::BumpStateVersion,
            29 => Action::Import {
                node,
                document: DOCUMENTS + self.below(40),
                documents: 2 + self.below(20),
                // Now and then more than a peer takes at once.
                bytes: if self.one_in(40) { 60_000 } else { 40 },
            },
            32 if self.archives => match self.one_in(2) {
                true => Action::Archive { node },
                false => Action::Restore { node },
            },
            33 if self.upgrades => {
                let newest = if self.one_in(2) { 1 } else { 2 };
                let oldest = if self.one_in(2) { newest } else { 1 };
                Action::Upgrade {
                    node,
                    oldest,
                    newest,
                }
            }
            30 | 31 if self.liar => Action::Lie {
                frame: self.rng.next_u64(),
                alter: self.rng.next_u64(),
            },
            _ => self.edit(),
        }
    }

    fn edit(&mut self) -> Action {
        // Also whoever stays well.
        let node = self.count(4);
        if self.real && self.one_in(2) {
            return self.revise(node);
        }
        // Large ones cost most of a history's time; a few are enough to meet every mishap.
        let bytes = match self.below(200) {
            0 => 70_000,
            1 => 200_000,
            _ => 10 + self.count(400),
        };
        match self.one_in(6) {
            true => Action::EditMany {
                node,
                document: self.below(DOCUMENTS - 2),
                changes: 1 + self.count(3),
                // Large enough for several frames, or small.
                bytes: bytes.min(70_000),
            },
            false => Action::Edit {
                node,
                document: self.document(),
                bytes,
            },
        }
    }

    /// Something of what can be done to a real document, or a look at it.
    fn revise(&mut self, node: NodeId) -> Action {
        let document = self.document();
        let kind = kind_of(&crate::world::document(document));
        let is_of_kind = |edit: &&ModelEdit| edit.kind().is_none_or(|of| of == kind);
        let edits: Vec<_> = ModelEdit::ALL.iter().filter(is_of_kind).collect();
        match self.below(12) {
            0 | 1 => Action::Look { node, document },
            2 | 3 => Action::Command {
                node,
                command: self.below(COMMANDS),
            },
            4 => Action::Cancel {
                node,
                command: self.below(COMMANDS),
            },
            // Seldom: nobody edits it from then on.
            5 if self.one_in(4) => Action::Outdate { node, document },
            _ => Action::Revise {
                node,
                document,
                edit: *edits[self.count(edits.len() as u64)],
            },
        }
    }

    fn fail(&mut self, node: NodeId) -> Action {
        let what = Failure::of(self.below(4));
        Action::Fail {
            node,
            what,
            call: self.below(3),
            lands: self.one_in(2),
        }
    }

    fn lose(&mut self) -> Action {
        let node = self.victim;
        let is_seldom = self.one_in(3);
        match self.loses {
            Loses::Everything if is_seldom => Action::Wipe { node },
            Loses::Time => Action::RollBack { node },
            Loses::Records => Action::Rot {
                node,
                kind: self.below(5),
                which: self.rng.next_u64(),
                met: self.one_in(2),
            },
            Loses::Everything | Loses::Nothing => self.edit(),
        }
    }
}
