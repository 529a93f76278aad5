//! Both ends of the connection to a load process: the process itself, and its parent, which gives the orders.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, TryRecvError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use mio::Events;

use super::engine::Engine;
use super::tally::Tally;
use super::{Answer, Order, say};

/// Runs as a load process until standard input ends.
///
/// # Errors
/// When standard input or output fail.
pub fn run() -> Result<()> {
    let (mut engine, waker) = Engine::new()?;
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str::<Order>(&line)?));
            if sender.send(order).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(sender);
        // If this fails, the loop has ended and needs no waking.
        let _ = waker.wake();
    });
    let mut events = Events::with_capacity(1024);
    let mut slow_at = Instant::now();
    loop {
        let answers = match engine.turn(&mut events) {
            Ok(answers) => answers,
            Err(error) => return say(&Answer::Failed(format!("{error:#}"))),
        };
        for answer in &answers {
            say(answer)?;
        }
        if let Some(every) = engine.slow_every()
            && slow_at.elapsed() >= every
        {
            slow_at = Instant::now();
            engine.slow_tick()?;
        }
        match orders.try_recv() {
            Ok(order) => {
                if let Err(error) = engine.order(order?) {
                    return say(&Answer::Failed(format!("{error:#}")));
                }
                // An order that needs no waiting is answered in the next turn.
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

/// A load process, as its parent sees it. The process ends with its standard input, which closes when this value is
/// dropped or the parent dies.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts a load process, on this processor if one is named.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(core: Option<usize>) -> Result<Worker> {
        let core = core.map(|core| format!("--core={core}"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["load"].into_iter().chain(core.as_deref())).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a load process")?;
        let orders = child.stdin.take().context("a load process has no input")?;
        let answers = BufReader::new(child.stdout.take().context("a load process has no output")?);
        Ok(Worker { child, orders, answers })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order, without waiting.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn order(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        self.orders.write_all(line.as_bytes()).context("the load process is gone")
    }

    /// Waits for the answer to the last order.
    ///
    /// # Errors
    /// When the order failed, or the process did.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line).context("the load process is gone")?;
        if line.is_empty() {
            bail!("the load process ended: {}", self.child.wait()?);
        }
        match serde_json::from_str(&line)? {
            Answer::Failed(reason) => bail!("the load process failed: {reason}"),
            answer => Ok(answer),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The process's connections end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Gives every worker an order. Returns the longest time that one of them took, in seconds.
///
/// # Errors
/// When a worker fails.
pub fn order_all(workers: &mut [Worker], mut order: impl FnMut(usize) -> Order) -> Result<f64> {
    for (number, worker) in workers.iter_mut().enumerate() {
        worker.order(&order(number))?;
    }
    let mut longest = 0_f64;
    for worker in workers {
        match worker.answer()? {
            Answer::Done { seconds } => longest = longest.max(seconds),
            other => bail!("a load process answered out of turn: {other:?}"),
        }
    }
    Ok(longest)
}

/// Waits until all workers have received a phase's updates. Returns the sum of their counts.
///
/// # Errors
/// When a worker fails.
pub fn finish_all(workers: &mut [Worker], timeout_ms: u64) -> Result<Tally> {
    for worker in &mut *workers {
        worker.order(&Order::Finish { timeout_ms })?;
    }
    let mut sum = Tally::default();
    for worker in workers {
        match worker.answer()? {
            Answer::Counted(tally) => sum.add(&tally),
            other => bail!("a load process answered out of turn: {other:?}"),
        }
    }
    Ok(sum)
}
