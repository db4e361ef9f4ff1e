//! Commands in, outcomes out; and what became durable, published.

use super::devices::standing_of;
use super::{Command, Decision, Outcome, State};
use crate::error::Error;
use crate::index::{Mark, StartKey, VersionEntry};
use crate::model::*;
use crate::rollout::Standing;
use crate::store::{Key, Row};
use std::sync::Arc;

/// How much one `Tick` moves at most, so that a deadline shared by a whole fleet doesn't hold up everybody else.
const TICK_ITEMS_MAX: usize = 1_000;

impl State {
    /// Applies one command. A refused one leaves no trace.
    ///
    /// `at` is when the command was accepted; a clock that went back is overruled by the largest time seen.
    pub(crate) fn apply(&mut self, command: Command, at: Timestamp) -> Result<Outcome, Error> {
        self.now = self.now.max(at);
        let at = self.now;
        let mark = self.mark();
        let outcome = self.dispatch(command, at);
        match outcome {
            Ok(_) => self.push(at),
            Err(_) => self.undo_to(mark),
        }
        outcome
    }

    fn dispatch(&mut self, command: Command, at: Timestamp) -> Result<Outcome, Error> {
        match command {
            Command::Check { device, component, version, rules } => {
                self.check(&device, component, &version, rules, at).map(Outcome::Decision)
            }
            Command::Report(report) => self.report(&report, at).map(Outcome::Reported),
            Command::ReportVersion(report) => self.report_version(&report, at).map(Outcome::Reported),
            Command::NoteVersion { device, component, version, register } => {
                self.note_version(&device, component, &version, register, at).map(|()| Outcome::Done)
            }
            Command::Connect(connect) => self.connect(&connect, at).map(Outcome::Connected),
            Command::Disconnect { gateway, epoch } => {
                self.disconnect(&gateway, epoch);
                Ok(Outcome::Done)
            }
            Command::Served { upgrade, percent } => Ok(Outcome::Reported(self.served(upgrade, percent, at))),
            Command::PutProduct(new) => self.put_product(&new, at).map(Outcome::Product),
            Command::DeleteProduct { organization, product_id } => self.delete_product(&organization, &product_id),
            Command::PutDevices { organization, devices, register_products } => {
                Ok(Outcome::Devices(self.put_devices(&organization, devices, register_products, at)))
            }
            Command::DeleteDevice(device) => self.delete_device(&device),
            Command::PutDeviceSecret { device, secret_encrypted } => self.put_device_secret(&device, secret_encrypted),
            Command::PutImage(image) => Ok(Outcome::Image(self.put_image(*image))),
            Command::DeleteImage { organization, id } => self.delete_image(&organization, id),
            Command::CreateFirmware { new, register_product } => {
                self.create_firmware(*new, register_product, at).map(Outcome::Firmware)
            }
            Command::UpdateFirmware { id, new } => self.update_firmware(id, *new).map(Outcome::Firmware),
            Command::DeleteFirmware { organization, id } => self.delete_firmware(&organization, id),
            Command::CreateTask { new, register_product } => self.create_task(*new, register_product, at).map(Outcome::Task),
            Command::CreateTasks(new) => {
                let tasks = new.into_iter().map(|new| self.create_task(new, false, at));
                tasks.collect::<Result<_, _>>().map(Outcome::Tasks)
            }
            Command::ActOnTask { organization, id, action, rules } => {
                self.act_on_task(&organization, id, action, rules, at).map(Outcome::Task)
            }
            Command::DeleteTask { organization, id, rules } => self.delete_task(&organization, id, rules, at),
            Command::ActOnUpgrades(action) => self.act_on_upgrades(&action, at),
            Command::PutToken(token) => self.put_token(*token).map(Outcome::Token),
            Command::RevokeToken { organization, id } => self.revoke_token(organization.as_deref(), id),
            Command::PutApp(app) => self.put_app(*app).map(Outcome::App),
            Command::DeleteApp { organization, id } => self.delete_app(organization.as_deref(), &id),
            Command::PutSubscription(row) => self.put_subscription(*row).map(Outcome::Subscription),
            Command::DeleteSubscription { organization, id } => self.delete_subscription(&organization, &id),
            Command::AdvanceSubscription { id, position } => Ok(self.advance_subscription(&id, position)),
            Command::Tick => Ok(Outcome::Ticked(self.tick(at))),
        }
    }

    /// Moves what is due and says when the next thing is.
    fn tick(&mut self, at: Timestamp) -> Option<Timestamp> {
        for _ in 0..TICK_ITEMS_MAX {
            let Some(&(deadline, task, device)) = self.deadlines.first().filter(|(deadline, ..)| *deadline <= at) else { break };
            debug_assert!(deadline <= at);
            self.time_out(task, device, at);
        }
        self.tick_tasks(TICK_ITEMS_MAX, at);
        self.ring_alarms(at);
        self.push(at);
        self.drop_ended_tokens(at);
        self.drop_old_events();
        let deadline = self.deadlines.first().map(|(deadline, ..)| *deadline);
        deadline.into_iter().chain(self.next_due(at)).chain(self.next_push(at)).min()
    }

    /// Whole hours after their end, so that one look at the first entry tells whether there is anything to do.
    fn drop_ended_tokens(&mut self, at: Timestamp) {
        let ended_hour = at.as_seconds() / 3600;
        let ended: Vec<TokenId> =
            self.token_ends.range(..ended_hour).flat_map(|(_, tokens)| tokens.iter().copied()).take(TICK_ITEMS_MAX).collect();
        for id in ended {
            self.delete(Key::Token(id));
        }
    }

    /// In steps of a hundredth, so that not every event costs a deletion.
    fn drop_old_events(&mut self) {
        let kept = self.event_sequence.saturating_sub(self.event_oldest);
        let step = self.limits.events_max / 100;
        if kept > self.limits.events_max.saturating_add(step) {
            self.delete(Key::EventsBefore(self.event_sequence.saturating_sub(self.limits.events_max)));
        }
    }

    /// Puts an event and returns its sequence number.
    pub(super) fn tell(&mut self, mut event: Event) -> u64 {
        event.sequence = self.event_sequence + 1;
        let sequence = event.sequence;
        self.put(Row::Event(Arc::new(event)));
        sequence
    }

    /// Makes visible what has become durable.
    pub(crate) fn publish(&self) {
        let touched = self.touched();
        for (organization, id, number) in &touched.products {
            let there = self.products.contains_key(number);
            self.published.publish_product(organization, id, there.then_some(*number));
        }
        for (product, id, number) in &touched.devices_gone {
            // Deleted and created again in one group: the new one stays.
            if self.device_number(*product, id).is_none() {
                self.published.withdraw_device(*product, id);
            }
            self.published.publish_marks(*number, Vec::new());
        }
        for number in &touched.devices {
            if let Some(row) = self.device_row(*number) {
                self.published.publish_device(Arc::clone(row));
            }
        }
        for number in &touched.tasks {
            if let Some(entry) = self.tasks.get(number) {
                entry.view.figures().publish(entry.figures_now());
            }
        }
        self.published.publish_permits_held(self.permits_held);
        for number in &touched.marks {
            self.published.publish_marks(*number, self.marks(*number));
        }
        for key in &touched.starts {
            let candidates: Box<[_]> = self
                .starts
                .get(key)
                .into_iter()
                .flatten()
                .rev()
                .filter_map(|task| self.tasks.get(task))
                .filter(|entry| entry.view.row().status != TaskStatus::Stopped)
                .map(|entry| Arc::clone(&entry.view))
                .collect();
            let is_target = self.targets.contains_key(key);
            let entry = (is_target || !candidates.is_empty()).then_some(VersionEntry { candidates, is_target });
            self.published.publish_start(key.clone(), entry);
        }
        for id in &touched.tokens {
            self.published.publish_token(*id, self.tokens.get(id).cloned());
        }
        for id in &touched.images {
            let image = self.images.get(id).and_then(|holders| holders.values().next());
            self.published.publish_image(*id, image.cloned());
        }
    }

    /// How the device stands with the tasks that it would be offered, where that isn't the ordinary way.
    fn marks(&self, device: DeviceNumber) -> Vec<Mark> {
        let live = self.live.get(&device).into_iter().flatten().filter_map(|live| {
            if let Some(offer) = &live.offer {
                return Some(Mark::Held(Arc::clone(offer)));
            }
            let standing = standing_of(&live.row);
            (standing != Standing::FRESH).then_some(Mark::Standing { task: live.row.task, standing })
        });
        let row = self.device_row(device);
        let done = row.into_iter().flat_map(|row| {
            row.components.iter().flat_map(|installed| {
                let key =
                    StartKey { product: row.product, component: installed.component, version: Arc::clone(&installed.version) };
                self.starts.get(&key).into_iter().flatten()
            })
        });
        let done = done
            .filter(|task| self.standing(**task, device) == Standing::Done)
            .map(|task| Mark::Standing { task: *task, standing: Standing::Done });
        live.chain(done).collect()
    }

    pub(super) fn decision_for_nothing(&self, product: ProductNumber, component: Component, version: &Arc<str>) -> Decision {
        let key = StartKey { product, component, version: Arc::clone(version) };
        if self.targets.contains_key(&key) { Decision::UpToDate } else { Decision::NoTask }
    }
}
