//! The simulator as a program: plays histories by the thousand, plays one again, makes one that fails
//! shorter, and shows that what is wrong on purpose is noticed.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use reconvene_core::mutants::{Mutant, Mutants};
use reconvene_sim::action::Action;
use reconvene_sim::history::Outcome;
use reconvene_sim::plan::{Mode, Plan};
use reconvene_sim::shrink::{catch, shrink, try_play};
use reconvene_sim::small_scope::{Counts, exhaust, pairs, triples, two_each};
use reconvene_sim::world::Observer;

/// Plays histories of simulated replicas, faults included, and checks what must hold.
#[derive(Debug, Parser)]
#[command(name = "reconvene-sim", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays many histories.
    Run {
        /// How many.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// The first seed; a random one if it is not given.
        #[arg(long)]
        from: Option<u64>,
        /// What they are to show.
        #[arg(long, value_enum, default_value_t = Of::Safety)]
        mode: Of,
        /// Play each twice, and compare the traces.
        #[arg(long)]
        twice: bool,
        /// Begin no more once this many seconds have passed.
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Plays one history.
    Replay {
        #[command(flatten)]
        which: Which,
        /// Print what happens, as it happens.
        #[arg(long)]
        events: bool,
    },
    /// Makes a history that fails shorter, and prints it.
    Shrink {
        #[command(flatten)]
        which: Which,
        /// Where to write it, too: a file of the corpus.
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Shows that each mutant is noticed, and how soon.
    Mutants {
        /// How many histories each may take.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// How many are played in any case, to count how many notice it.
        #[arg(long, default_value_t = 60)]
        sample: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Only these.
        #[arg(long)]
        only: Vec<String>,
    },
    /// Plays everything that three replicas can do to a document in a few operations.
    SmallScope,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The seed, or a file that holds a plan.
    seed: String,
    /// What it is to show.
    #[arg(long, value_enum, default_value_t = Of::Safety)]
    mode: Of,
    /// A mutant that its engines carry.
    #[arg(long)]
    mutant: Vec<String>,
    /// Print the plan.
    #[arg(long)]
    print: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Of {
    /// Anything goes wrong; nothing is lost.
    Safety,
    /// Who stays well agrees in time, whatever befalls the others.
    Liveness,
}

impl From<Of> for Mode {
    fn from(of: Of) -> Self {
        match of {
            Of::Safety => Self::Safety,
            Of::Liveness => Self::Liveness,
        }
    }
}

impl Which {
    fn read(&self) -> Result<(Plan, Mutants), String> {
        let mutants = self.mutant.iter().try_fold(Mutants::NONE, |all, name| {
            let mutant = Mutant::named(name).ok_or(format!("there is no mutant {name}"))?;
            Ok::<_, String>(all.and(mutant))
        })?;
        let plan = match self.seed.parse() {
            Ok(seed) => Plan::of(seed, self.mode.into()),
            Err(_) => {
                let text = std::fs::read_to_string(&self.seed);
                let text = text.map_err(|error| format!("{}: {error}", self.seed))?;
                Plan::from_text(&text).map_err(|error| format!("{}: {error}", self.seed))?
            }
        };
        if self.print {
            print!("{}", plan.to_text());
        }
        Ok((plan, mutants))
    }
}

fn main() -> ExitCode {
    // What does not hold panics; it is told once, where it belongs.
    std::panic::set_hook(Box::new(|_| {}));
    let done = match Args::parse().command {
        Command::Run {
            seeds,
            from,
            mode,
            twice,
            seconds,
        } => {
            let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
            Ok(run(from.unwrap_or_else(random), seeds, mode, twice, until))
        }
        Command::Replay { which, events } => which
            .read()
            .map(|(plan, mutants)| replay(&plan, mutants, events)),
        Command::Shrink { which, keep } => which
            .read()
            .and_then(|(plan, mutants)| shorten(&plan, mutants, keep)),
        Command::Mutants {
            seeds,
            sample,
            from,
            only,
        } => Ok(mutants(from, seeds, sample, &only)),
        Command::SmallScope => Ok(small_scope()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Somewhere to begin that is another each time.
fn random() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() * 1_000 % 1_000_000_000_000)
}

/// What many histories came to.
#[derive(Default)]
struct Sum {
    played: u64,
    time_ms: u64,
    steps: u64,
    pairs: BTreeSet<(&'static str, &'static str)>,
    failed: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, played: Result<Outcome, String>) {
        self.played += 1;
        match played {
            Ok(outcome) => {
                self.time_ms += outcome.time_ms;
                self.steps += outcome.steps;
                self.pairs.extend(outcome.pairs);
            }
            Err(why) => self.failed.push((seed, why)),
        }
    }
}

/// Plays seeds from one on, on all processors, until there are enough or `enough` says so.
fn play_all(
    first: u64,
    seeds: u64,
    bar: &ProgressBar,
    play: impl Fn(u64) -> Result<Outcome, String> + Sync,
    enough: impl Fn(&Sum) -> bool + Sync,
) -> Sum {
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let lock = || sum.lock().expect("nobody panics while it is held");
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || enough(&lock()) {
                        return;
                    }
                    let played = play(seed);
                    lock().add(seed, played);
                    bar.inc(1);
                }
            });
        }
    });
    let mut sum = sum.into_inner().expect("nobody panics while it is held");
    sum.failed.sort_unstable();
    sum
}

fn bar(seeds: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} histories, {per_sec}, {eta} left");
    ProgressBar::new(seeds).with_style(style.expect("the template is right"))
}

fn run(first: u64, seeds: u64, of: Of, twice: bool, until: Option<Instant>) -> bool {
    let mode = Mode::from(of);
    println!("{of:?} from seed {first}");
    let began = Instant::now();
    let bar = bar(seeds);
    let play = |seed| {
        let plan = Plan::of(seed, mode);
        let played = try_play(&plan, Mutants::NONE)?;
        if twice && Ok(&played) != try_play(&plan, Mutants::NONE).as_ref() {
            return Err("another trace the second time".to_owned());
        }
        Ok(played)
    };
    let is_over = |_: &Sum| until.is_some_and(|until| Instant::now() >= until);
    let sum = play_all(first, seeds, &bar, play, is_over);
    bar.finish_and_clear();
    let seconds = began.elapsed().as_secs_f64().max(0.001);
    let hours = sum.time_ms as f64 / 3_600_000.0;
    println!(
        "{} histories{} in {seconds:.0} s: {:.1} a second, {:.0} simulated hours ({:.1} a second), {} steps",
        sum.played,
        if twice { ", each twice," } else { "" },
        sum.played as f64 / seconds,
        hours,
        hours / seconds,
        sum.steps
    );
    let wanted = Action::MISHAPS
        .into_iter()
        .flat_map(|wrong| Action::DEEDS.map(|deed| (wrong, deed)));
    let missed: Vec<_> = wanted
        .clone()
        .filter(|pair| !sum.pairs.contains(pair))
        .collect();
    println!(
        "{} of {} pairs of what went wrong and what was done after",
        wanted.clone().count() - missed.len(),
        wanted.count()
    );
    for (wrong, deed) in &missed {
        println!("  not hit: {deed} after {wrong}");
    }
    for (seed, why) in &sum.failed {
        println!("FAILED {of:?} {seed}: {}", first_line(why));
    }
    // Few histories hit few pairs; some mishaps befall only those who need not stay well.
    let is_covered = missed.is_empty() || sum.played < 2_000 || mode == Mode::Liveness;
    sum.failed.is_empty() && is_covered
}

fn first_line(why: &str) -> &str {
    let line = why.lines().next().unwrap_or_default();
    let end = line
        .char_indices()
        .nth(300)
        .map_or(line.len(), |(at, _)| at);
    &line[..end]
}

fn replay(plan: &Plan, mutants: Mutants, events: bool) -> bool {
    if events {
        let observer = Observer(|at, node, what| println!("{at:8} ms, node {node}: {what}"));
        // What it came to is told below.
        drop(catch_unwind(|| plan.play(mutants, Some(observer))));
    }
    match try_play(plan, mutants) {
        Ok(outcome) => {
            let trace: String = outcome
                .trace
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            println!(
                "holds: {} actions, {} steps, {} changes, {} s, trace {trace}",
                plan.steps.len(),
                outcome.steps,
                outcome.changes,
                outcome.time_ms / 1_000
            );
            true
        }
        Err(why) => {
            println!("FAILED: {why}");
            false
        }
    }
}

fn shorten(plan: &Plan, mutants: Mutants, keep: Option<PathBuf>) -> Result<bool, String> {
    let bar = ProgressBar::new_spinner();
    let shorter = shrink(plan, mutants, |steps| {
        bar.set_message(format!("{steps} actions"));
        bar.tick();
    });
    bar.finish_and_clear();
    let Some(shorter) = shorter else {
        println!("it holds: there is nothing to make shorter");
        return Ok(true);
    };
    let why = try_play(&shorter, mutants).err().unwrap_or_default();
    let text = format!("# {}\n{}", first_line(&why), shorter.to_text());
    print!("{text}");
    if let Some(path) = keep {
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(false)
}

fn mutants(first: u64, seeds: u64, sample: u64, only: &[String]) -> bool {
    println!("| mutant | noticed after | by | as |");
    println!("|---|---|---|---|");
    let mut survived = Vec::new();
    let faulty = Mutex::new(BTreeSet::new());
    for mutant in Mutant::ALL {
        let name = format!("{mutant:?}");
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let bar = bar(seeds);
        bar.set_message(name.clone());
        let play = |seed: u64| {
            // One in four shows that who stays well agrees in time.
            let mode = match seed % 4 {
                0 => Mode::Liveness,
                _ => Mode::Safety,
            };
            let plan = Plan::of(seed, mode);
            let played = try_play(&plan, Mutants::NONE.and(mutant));
            // It is the mutant that fails only where all holds without it.
            if played.is_err() && try_play(&plan, Mutants::NONE).is_err() {
                let mode = format!("{mode:?}").to_lowercase();
                faulty.lock().expect(UNPOISONED).insert((seed, mode));
                return Ok(Outcome::default());
            }
            played
        };
        let enough = |sum: &Sum| sum.played >= sample && !sum.failed.is_empty();
        let sum = play_all(first, seeds, &bar, play, enough);
        bar.finish_and_clear();
        match sum.failed.first() {
            Some((seed, why)) => println!(
                "| {name} | {} | {} of {} | {} |",
                seed - first + 1,
                sum.failed.len(),
                sum.played,
                first_line(why)
            ),
            None => {
                println!("| {name} | SURVIVED | 0 of {} | |", sum.played);
                survived.push(name);
            }
        }
    }
    if !survived.is_empty() {
        println!("survived: {}", survived.join(", "));
    }
    let faulty = faulty.into_inner().expect(UNPOISONED);
    for (seed, mode) in &faulty {
        println!("does not hold without a mutant either: {seed} --mode {mode}");
    }
    survived.is_empty() && faulty.is_empty()
}

fn small_scope() -> bool {
    let scopes = [pairs(), triples(), two_each()].concat();
    let began = Instant::now();
    let jobs: Vec<_> = scopes
        .iter()
        .enumerate()
        .flat_map(|(place, scope)| (0..scope.edits.len()).map(move |first| (place, first)))
        .collect();
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} parts, {eta} left");
    let bar = ProgressBar::new(jobs.len() as u64);
    bar.set_style(style.expect("the template is right"));
    let counts = Mutex::new(vec![Counts::default(); scopes.len()]);
    let failed = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|threads_of| {
        for _ in 0..threads {
            threads_of.spawn(|| {
                while let Some((place, first)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match catch(|| exhaust(&scopes[*place], *first)) {
                        Ok(part) => {
                            let mut counts = counts.lock().expect(UNPOISONED);
                            counts[*place] = counts[*place].and(part);
                        }
                        Err(why) => {
                            bar.suspend(|| println!("FAILED {why}"));
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    println!(
        "| scope | kind | before | operations | histories | orders of delivery | conflicts | deletions outlived | without effect |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let counts = counts.into_inner().expect(UNPOISONED);
    let row = |name: &str, kind: &str, base: &str, edits: &str, of: &Counts| {
        println!(
            "| {name} | {kind} | {base} | {edits} | {} | {} | {} | {} | {} |",
            of.histories, of.orders, of.conflicts, of.deletions_outlived, of.without_effect
        );
    };
    for (scope, of) in scopes.iter().zip(&counts) {
        let base = format!("{:?}", scope.base).to_lowercase();
        let edits = scope.edits.len().to_string();
        row(scope.name, scope.kind_name(), &base, &edits, of);
    }
    let all = counts.into_iter().fold(Counts::default(), Counts::and);
    row("all", "", "", "", &all);
    println!("in {:.0} s", began.elapsed().as_secs_f64());
    failed.into_inner() == 0
}

/// The invariant of what threads share here.
const UNPOISONED: &str = "nobody panics while it is held";
