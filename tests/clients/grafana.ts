// Types of Grafana's own schema for a dashboard, its panels, their options and queries, with strings instead of enums.
import type { Dashboard, DataSourceRef, FieldConfigSource, Panel } from '@grafana/schema';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as TimeSeriesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string ? `${T}` : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T;

type PrometheusQuery = { refId: string; expr: string; legendFormat?: string; instant?: boolean };
type SqlQuery = { refId: string; rawSql: string; rawQuery: true; format: 'time_series' | 'table' };
type Query = PrometheusQuery | SqlQuery;

type Drawn<Type extends string, Options> = Omit<Plain<Panel>, 'type' | 'options' | 'targets' | 'fieldConfig' | 'datasource'> & {
  type: Type;
  datasource: Required<Pick<DataSourceRef, 'type' | 'uid'>>;
  options: Plain<Options>;
  fieldConfig: Plain<FieldConfigSource>;
  targets: Query[];
};

type Annotation = NonNullable<NonNullable<Plain<Dashboard>['annotations']>['list']>[number];

export type Board = Omit<Plain<Dashboard>, 'panels' | 'annotations'> & {
  // The schema leaves the query of an annotation to the data source.
  annotations: { list: (Omit<Annotation, 'target'> & { target: SqlQuery })[] };
  panels: (Drawn<'timeseries', Partial<TimeSeriesOptions>> | Drawn<'stat', Partial<StatOptions>>)[];
};

// @ts-expect-error proves that the types reject a wrong value
export const refused: Plain<Partial<TimeSeriesOptions>> = { legend: { showLegend: true, displayMode: 'tabel', placement: 'right', calcs: [] } };
