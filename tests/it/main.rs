//! The promises, one file each.
#![expect(clippy::unwrap_used, reason = "a test fails where it expects")]
#![expect(clippy::disallowed_methods, reason = "the tasks of a test end with it")]

mod accounts;
mod administrators;
mod bad_input;
mod browser_faults;
mod certificates;
mod churn;
mod clocks;
mod commands;
mod control;
mod databases;
mod dialogs;
mod ec2;
mod ec2_crashes;
mod ec2_parked;
mod ec2_provider;
mod enrolment;
mod first_browser;
mod grpc;
mod hostile_pages;
mod layers;
mod link_faults;
mod live;
mod live_page;
mod live_viewers;
mod mail;
mod many_agents;
mod metrics;
mod model_pool;
mod odd_agents;
mod other_providers;
mod pages;
mod pool;
mod queue;
mod recycling;
mod replicas;
mod restarts;
mod rolling;
mod rotation;
mod second_factor;
mod slow_clients;
mod socket;
mod store;
mod tenants;
mod tickets;
