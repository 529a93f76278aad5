//! The store on each database. A scenario is written once; `sqlite` runs it always, `real` where there are servers.

mod access;
mod arrivals;
mod crash;
mod endpoints;
mod history;
mod keeping;
mod property;
mod rig;
mod versions;
mod work;

use endpoints::{attempts, leasing, people, saving};
use rig::Rig;

/// Each scenario as a test on each database.
macro_rules! on_each_database {
    ($($module:ident::$scenario:ident,)+) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$module::$scenario(&super::Rig::sqlite().await).await;
                }
            )+
        }

        mod real {
            mod mariadb {
                $(
                    #[tokio::test]
                    async fn $scenario() {
                        let Some(rig) = crate::store::tests::Rig::mariadb().await else { return };
                        crate::store::tests::$module::$scenario(&rig).await;
                    }
                )+
            }

            mod postgres {
                $(
                    #[tokio::test]
                    async fn $scenario() {
                        let Some(rig) = crate::store::tests::Rig::postgres().await else { return };
                        crate::store::tests::$module::$scenario(&rig).await;
                    }
                )+
            }
        }
    };
}

on_each_database! {
    arrivals::an_item_becomes_an_event_and_is_read_back,
    arrivals::repeats_are_linked,
    arrivals::the_same_delivery_twice_in_one_transaction,
    arrivals::the_same_delivery_at_once_at_two_stores,
    arrivals::an_equal_time_at_once_at_two_stores,
    arrivals::a_request_that_is_handed_over_again_is_answered_as_before,
    arrivals::many_requests_share_a_transaction,
    arrivals::odd_texts,
    work::ordinary_events_are_completed_together,
    work::one_stale_plan_does_not_stop_the_others,
    work::a_dead_letter_holds_its_chain_and_lets_it_go,
    work::one_event_of_a_lane_is_processed_at_a_time,
    work::a_repeated_mapping_moves_an_event_to_its_lane,
    work::what_is_due,
    work::lanes_together_are_as_lanes_alone,
    work::two_workers_share_the_work,
    work::a_row_that_cannot_be_read_holds_up_no_other,
    work::a_clock_that_jumps_loses_nothing,
    work::a_newer_event_supersedes_a_long_chain,
    work::a_feed_whose_table_is_gone_holds_up_no_other,
    work::paced_lanes_of_each_source,
    history::pages_and_filters,
    history::requests_are_listed,
    history::the_way_of_a_bug_to_its_number,
    history::orders_about_many,
    keeping::quarantine_has_shares,
    keeping::bodies_are_bounded,
    keeping::items_are_kept_within_bounds,
    keeping::many_large_items_are_kept,
    keeping::retention_removes_what_is_old,
    keeping::retention_removes_what_is_too_much,
    keeping::retention_under_load,
    keeping::pruning,
    access::keys,
    access::tokens,
    access::the_audit_log,
    access::notes_and_switches,
    access::leases,
    people::an_endpoint_is_made_and_read_back,
    people::endpoints_are_listed,
    people::a_change_and_its_deed_are_one,
    people::changes_at_once_at_two_stores,
    people::what_was_changed_is_found,
    people::many_changes_are_found_in_pages,
    people::deleted_endpoints,
    people::bounds,
    saving::many_rows_are_saved_and_taken_over,
    saving::somebody_else_was_quicker,
    saving::a_save_may_be_repeated,
    saving::nothing_is_saved_under_a_lost_lease,
    saving::a_takeover_waits_for_a_save,
    saving::a_save_that_is_cut_off_happens_as_a_whole_or_not_at_all,
    saving::the_queue_writes_what_waits_together,
    saving::a_row_that_the_database_refuses_holds_up_no_other,
    attempts::pages,
    attempts::they_go_by_time,
    attempts::they_go_by_size,
    leasing::two_processes_share,
    leasing::a_silent_process_loses_its_leases,
    leasing::what_was_let_go_is_given_back,
    leasing::a_take_whose_outcome_is_not_known,
    leasing::a_slow_look_is_no_silence,
    leasing::many_processes_at_once,
    versions::a_store_is_made_once,
    versions::endpoints_come_to_a_store_of_the_version_before,
    versions::an_older_version_is_migrated,
    versions::a_newer_version_is_refused,
    versions::two_processes_migrate_at_once,
    crash::a_commit_that_is_cut_off_happens_as_a_whole_or_not_at_all,
    crash::a_killed_process_loses_nothing_that_it_has_answered,
}
