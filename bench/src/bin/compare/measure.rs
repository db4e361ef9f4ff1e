//! Taking turns, and what a turn costs the server.
//!
//! A turn: 1. read the server's processor time   2. make the load, on the other processor   3. read it again. From the difference the
//! cost of setting up the connections is taken off, measured beforehand: wrk sets up all of them within the turn, and over TLS that
//! would be a good part of a short one.

use crate::failure::{Context, Outcome};
use crate::handshake;
use crate::http::Client;
use crate::machine::Machine;
use crate::options::Options;
use crate::process::{ProcessorTime, go_on};
use crate::results::{Figures, Measured, Unit, median};
use crate::world::{Row, Side, Work, World};
use crate::wrk::{Load, Seen};
use std::collections::HashMap;
use std::time::Duration;

/// Measures rows of a world.
#[derive(Debug)]
pub(crate) struct Measurer<'a> {
    options: &'a Options,
    /// What setting up connections costs: by process, TLS and number.
    connecting_ns: HashMap<(u32, bool, u32), f64>,
}

impl<'a> Measurer<'a> {
    pub(crate) fn new(options: &'a Options) -> Self {
        Self { options, connecting_ns: HashMap::new() }
    }

    /// How long a row takes over one number of connections, about.
    pub(crate) fn estimate(options: &Options) -> Duration {
        let turn = Duration::from_secs(options.seconds().into()) + BETWEEN_TURNS;
        turn * (2 * options.rounds())
    }

    /// All rounds of one row over `connections`; none where too little was done in the time to say anything.
    pub(crate) fn row(&mut self, world: &mut World, row: &Row, connections: u32) -> Outcome<Option<Measured>> {
        let mut rounds = Vec::new();
        for round in 0..self.options.rounds() {
            world.expect_alive()?;
            // Who begins alternates too: what drifts during a round then drifts against either.
            let mut turn =
                |side: &Side| self.turn(world, row, side, connections).context(|| format!("{}, {}", row.label, side.name));
            let (ours, nginx) = if round % 2 == 0 {
                let ours = turn(&row.ours)?;
                (ours, turn(&row.nginx)?)
            } else {
                let nginx = turn(&row.nginx)?;
                (turn(&row.ours)?, nginx)
            };
            rounds.extend(ours.zip(nginx));
        }
        if rounds.is_empty() {
            return Ok(None);
        }
        let (ours, nginx): (Vec<Figures>, Vec<Figures>) = rounds.iter().copied().unzip();
        let ratios: Vec<f64> = rounds.iter().map(|(ours, nginx)| ours.unit_ns / nginx.unit_ns).collect();
        Ok(Some(Measured {
            table: row.table.clone(),
            label: row.label.clone(),
            connections,
            unit: row.unit,
            contender: row.ours.name.to_owned(),
            ours: Figures::median(&ours),
            nginx: Figures::median(&nginx),
            ratio: median(ratios.iter().copied()),
            ratio_min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratio_max: ratios.iter().copied().fold(0.0, f64::max),
            machine_ratio: median(rounds.iter().map(|(ours, nginx)| ours.machine_unit_ns / nginx.machine_unit_ns)),
            rate_ratio: median(rounds.iter().map(|(ours, nginx)| ours.rate / nginx.rate)),
        }))
    }

    fn turn(&mut self, world: &World, row: &Row, side: &Side, connections: u32) -> Outcome<Option<Figures>> {
        go_on()?;
        match &row.work {
            Work::Requests(load) => self.requests(world, load, side, connections, row.unit),
            Work::Handshakes { resumed } => {
                let seconds = Duration::from_secs(self.options.seconds().into());
                let machine = Machine::watch(self.options.processors())?;
                let (seen, used_ns) = handshake::run(&world.certificate, side, *resumed, connections, seconds)?;
                Ok(figures(seen, used_ns as f64, machine.busy_ns()?, row.unit))
            }
        }
    }

    /// One turn of a load on kept connections.
    pub(crate) fn requests(
        &mut self,
        world: &World,
        load: &Load,
        side: &Side,
        connections: u32,
        unit: Unit,
    ) -> Outcome<Option<Figures>> {
        let connecting_ns = self.connecting(world, side, connections)?;
        let before = ProcessorTime::of(side.process)?;
        let machine = Machine::watch(self.options.processors())?;
        let seen = load.run(self.options, world.path(), &side.origin(), connections, self.options.seconds())?;
        let machine_ns = machine.busy_ns()?;
        // Taking the connections down is part of it.
        std::thread::sleep(SETTLING);
        let used_ns = ProcessorTime::of(side.process)?.since(&before);
        Ok(figures(seen, used_ns as f64 - connecting_ns, machine_ns, unit))
    }

    /// What the server spends on `connections` new connections.
    fn connecting(&mut self, world: &World, side: &Side, connections: u32) -> Outcome<f64> {
        let key = (side.process, side.tls, connections);
        if let Some(known) = self.connecting_ns.get(&key) {
            return Ok(*known);
        }
        let config = if side.tls { Some(world.certificate.client(false)?) } else { None };
        let mut tries = Vec::new();
        for _ in 0..CONNECTING_TRIES {
            let before = ProcessorTime::of(side.process)?;
            let clients: Outcome<Vec<Client>> = (0..connections).map(|_| Client::connect(side.address, config.as_ref())).collect();
            let clients = clients?;
            // The last handshakes are over for the client before they are for the server.
            std::thread::sleep(SETTLING);
            tries.push(ProcessorTime::of(side.process)?.since(&before) as f64);
            drop(clients);
            std::thread::sleep(SETTLING);
        }
        let known = median(tries);
        self.connecting_ns.insert(key, known);
        Ok(known)
    }
}

/// A turn in figures; none where nothing was finished, or where connecting took as long as the turn.
fn figures(seen: Seen, used_ns: f64, machine_ns: f64, unit: Unit) -> Option<Figures> {
    let units = match unit {
        Unit::Request => seen.requests as f64,
        Unit::Kibibyte => seen.bytes as f64 / 1024.0,
    };
    let elapsed_s = seen.elapsed.as_secs_f64();
    let figures = Figures {
        unit_ns: used_ns / units,
        machine_unit_ns: machine_ns / units,
        rate: units / elapsed_s,
        latency_us: seen.latency_us,
        busy: used_ns / 1e9 / elapsed_s,
    };
    (units >= 1.0 && used_ns >= 1.0).then_some(figures)
}

/// wrk's start and end, and what a server has to clean up.
const BETWEEN_TURNS: Duration = Duration::from_millis(300);
const SETTLING: Duration = Duration::from_millis(50);
const CONNECTING_TRIES: usize = 3;
