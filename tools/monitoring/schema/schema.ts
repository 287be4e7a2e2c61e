// A dashboard with panels of the kinds that ours has, as Grafana Labs' SDK for this version of
// Grafana describes them. In JSON an enum is its value, and what an SDK fills in may be absent.
import type * as bargauge from "@grafana/grafana-foundation-sdk/bargauge";
import type * as grafana from "@grafana/grafana-foundation-sdk/dashboard";
import type * as prometheus from "@grafana/grafana-foundation-sdk/prometheus";
import type * as stat from "@grafana/grafana-foundation-sdk/stat";
import type * as table from "@grafana/grafana-foundation-sdk/table";
import type * as timeseries from "@grafana/grafana-foundation-sdk/timeseries";

type Json<T> = T extends string
  ? `${T}`
  : T extends object
    ? { [Key in keyof T]: Json<T[Key]> }
    : T;

type Query = Omit<prometheus.dataquery, "_implementsDataqueryVariant">;

type PanelOf<Type extends string, Options, Custom> = Omit<
  grafana.Panel,
  "type" | "targets" | "options" | "fieldConfig"
> & {
  type: Type;
  targets: Query[];
  options: Partial<Options>;
  fieldConfig: Omit<grafana.FieldConfigSource, "defaults"> & {
    defaults: Omit<grafana.FieldConfig, "custom"> & { custom?: Partial<Custom> };
  };
};

type Panel =
  | PanelOf<"stat", stat.Options, never>
  | PanelOf<"timeseries", timeseries.Options, timeseries.FieldConfig>
  | PanelOf<"table", table.Options, table.FieldConfig>
  | PanelOf<"bargauge", bargauge.Options, never>;

export type Dashboard = Json<Omit<grafana.Dashboard, "panels"> & { panels: Panel[] }>;
