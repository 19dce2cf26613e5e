// Draws panels of a Grafana dashboard with Grafana's own components, from Prometheus' answers to their queries.
//
// picture.py calls draw() in a browser. What Grafana's application does around its components is done here, as far as
// this dashboard needs it: the grid, answers as data frames, and the state timeline, which none of its libraries has.
import { Component } from 'react';
import { createRoot } from 'react-dom/client';
import {
  FieldConfigOptionsRegistry, FieldType, ThemeContext, applyFieldOverrides, createTheme, dateTime,
  getDisplayValueAlignmentFactors, getFieldDisplayName, getFieldDisplayValues, toDataFrame,
} from '@grafana/data';
import { AxisPlacement, LegendDisplayMode, ScaleDirection, ScaleOrientation } from '@grafana/schema';
import {
  BarGauge, BigValue, GlobalStyles, Icon, PanelChrome, TimeSeries, UPlotChart, UPlotConfigBuilder, VizLayout, VizLegend,
  VizRepeater,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

const theme = createTheme({ colors: { mode: 'dark' } });
const COLUMNS = 24, UNIT = 30, GAP = 8, MARGIN = 16; // pixels, as in Grafana
const RENAMED = { 'custom.hidden': 'hideFrom.viz' }; // Grafana migrates older dashboards so
const asIs = (text) => text;

// One frame for each series; null where a series has gaps.
function seriesFrame(series, target, steps) {
  const points = new Map((series.values ?? [series.value]).map(([at, value]) => [at * 1000, Number(value)]));
  const times = target.instant ? [...points.keys()] : steps;
  const legend = target.legendFormat.replace(/{{(.+?)}}/g, (_, label) => series.metric[label] ?? '');
  const config = target.legendFormat === '__auto' ? {} : { displayNameFromDS: legend };
  const values = times.map((at) => points.get(at) ?? null);
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: times },
      { name: 'Value', type: FieldType.number, labels: series.metric, config, values },
    ],
  });
}

// One frame with a column for each label.
function tableFrame(answer) {
  const labels = [...new Set(answer.flatMap((series) => Object.keys(series.metric)))].sort();
  return toDataFrame({
    fields: [
      { name: 'Time', type: FieldType.time, values: answer.map(({ value }) => value[0] * 1000) },
      ...labels.map((name) => (
        { name, type: FieldType.string, values: answer.map(({ metric }) => metric[name] ?? '') })),
      { name: 'Value', type: FieldType.number, values: answer.map(({ value }) => Number(value[1])) },
    ],
  });
}

// Which settings of fields there are: those that the panel has.
function settingsOf({ defaults, overrides }) {
  const { custom = {}, ...standard } = defaults;
  const overridden = overrides.flatMap((rule) => rule.properties.map(({ id }) => id));
  const ids = new Set([...Object.keys(standard), ...Object.keys(custom).map((key) => `custom.${key}`), ...overridden]);
  return new FieldConfigOptionsRegistry(() => [...ids].map((id) => ({
    id, name: id, path: RENAMED[id] ?? id.replace(/^custom\./, ''), isCustom: id.startsWith('custom.'),
    process: asIs, shouldApply: (field) => field.type !== FieldType.time,
  })));
}

function framesOf({ answers, fieldConfig, targets }, steps) {
  fieldConfig.defaults.thresholds?.steps.forEach((each) => { each.value ??= -Infinity; });
  const data = answers.flatMap((answer, at) => targets[at].format === 'table'
    ? [tableFrame(answer)]
    : answer.map((series) => seriesFrame(series, targets[at], steps)));
  const fieldConfigRegistry = settingsOf(fieldConfig);
  return applyFieldOverrides({ data, fieldConfig, fieldConfigRegistry, replaceVariables: asIs, theme });
}

// Stats and bar gauges: the values of all series, beside or below each other.
function Values({ panel, frames, width, height }) {
  const { options, fieldConfig } = panel;
  const isStat = panel.type === 'stat';
  const getValues = () => getFieldDisplayValues({
    data: frames, reduceOptions: options.reduceOptions, fieldConfig, replaceVariables: asIs, theme,
  });
  const renderValue = ({ value, width, height, alignmentFactors, orientation, count }) => {
    const common = { value: value.display, width, height, alignmentFactors, theme };
    return isStat
      ? <BigValue {...common} count={count} {...options} />
      : <BarGauge {...common} namePlacement="auto" {...options} orientation={orientation} itemSpacing={8}
          valueDisplayMode={options.valueMode} field={value.field}
          display={value.view?.getFieldDisplayProcessor(value.colIndex)} />;
  };
  const { orientation, minVizWidth, minVizHeight } = options;
  return (
    <VizRepeater {...{ width, height, getValues, renderValue, orientation, minVizWidth, minVizHeight }} source={frames}
      itemSpacing={isStat ? 3 : 10} renderCounter={0} getAlignmentFactors={getDisplayValueAlignmentFactors} autoGrid />
  );
}

// Runs of equal values of a series, with the times between which each holds.
function runsOf(times, values) {
  const starts = values.flatMap((value, at) => (at === 0 || value !== values[at - 1] ? [at] : []));
  const ends = [...starts.slice(1), values.length - 1];
  const runs = starts.map((at, run) => ({ value: values[at], from: times[at], to: times[ends[run]] }));
  return runs.filter(({ value }) => value !== null);
}

function StateTimeline({ panel, frames, width, height, timeRange }) {
  const { options, fieldConfig } = panel;
  const rows = frames.map((frame, row) => ({
    name: getFieldDisplayName(frame.fields[1], frame, frames),
    display: frame.fields[1].display,
    middle: frames.length - row - 0.5,
    runs: runsOf(frame.fields[0].values, frame.fields[1].values),
  }));
  const config = new UPlotConfigBuilder('browser');
  const [x, y] = [{ scaleKey: 'x', isTime: true, theme }, { scaleKey: 'y', theme }];
  config.addScale({
    ...x, orientation: ScaleOrientation.Horizontal, direction: ScaleDirection.Right,
    range: () => [timeRange.from.valueOf(), timeRange.to.valueOf()],
  });
  config.addScale({
    ...y, orientation: ScaleOrientation.Vertical, direction: ScaleDirection.Up, range: () => [0, rows.length],
  });
  config.addAxis({ ...x, placement: AxisPlacement.Bottom, timeZone: 'browser', grid: { show: true } });
  config.addAxis({
    ...y, placement: AxisPlacement.Left, grid: { show: false }, ticks: { show: false },
    splits: () => rows.map(({ middle }) => middle), values: () => rows.map(({ name }) => name),
  });
  config.addSeries({ ...y, pathBuilder: () => null, pointsBuilder: () => null, lineColor: 'transparent' });
  config.addHook('draw', (plot) => {
    const { ctx } = plot;
    ctx.font = `12px ${theme.typography.fontFamily}`;
    ctx.textAlign = 'left';
    ctx.textBaseline = 'middle';
    for (const { runs, display, middle } of rows) {
      const [top, bottom] = [1, -1].map((side) => plot.valToPos(middle + side * options.rowHeight / 2, 'y', true));
      for (const run of runs) {
        const [left, right] = [run.from, run.to].map((at) => plot.valToPos(at, 'x', true));
        const { color, text } = display(run.value);
        ctx.globalAlpha = fieldConfig.defaults.custom.fillOpacity / 100;
        ctx.fillStyle = color;
        ctx.fillRect(left, top, right - left, bottom - top);
        ctx.globalAlpha = 1;
        ctx.fillStyle = theme.colors.getContrastText(color);
        if (ctx.measureText(text).width + 10 < right - left) {
          ctx.fillText(text, left + 5, (top + bottom) / 2);
        }
      }
    }
  });
  const states = Object.values(fieldConfig.defaults.mappings[0].options).map(({ text, color }) => (
    { label: text, color: theme.visualization.getColorByName(color), yAxis: 1 }));
  const legend = (
    <VizLayout.Legend placement="bottom">
      <VizLegend placement="bottom" displayMode={LegendDisplayMode.List} items={states} />
    </VizLayout.Legend>
  );
  return (
    <VizLayout width={width} height={height} legend={legend}>
      {(width, height) => <UPlotChart config={config} data={[frames[0].fields[0].values, frames[0].fields[1].values]}
        width={width} height={height} />}
    </VizLayout>
  );
}

function Content({ panel, steps, width, height }) {
  const frames = framesOf(panel, steps);
  const [from, to] = [dateTime(steps[0]), dateTime(steps.at(-1))];
  const timeRange = { from, to, raw: { from, to } };
  const props = { panel, frames, width, height, timeRange };
  switch (panel.type) {
    case 'stat':
    case 'bargauge':
      return <Values {...props} />;
    case 'state-timeline':
      return <StateTimeline {...props} />;
    case 'timeseries':
      return <TimeSeries {...{ frames, width, height, timeRange }} timeZone="browser" legend={panel.options.legend} />;
    case 'table':
      return <TableNG data={frames[0]} {...{ width, height }} cellHeight={panel.options.cellHeight} />;
    default:
      throw new Error(`panels of type ${panel.type} cannot be drawn`);
  }
}

// Says which panel an error belongs to.
class Panel extends Component {
  state = {};

  static getDerivedStateFromError(error) {
    return { error };
  }

  render() {
    const { panel, steps, ...size } = this.props;
    if (this.state.error) {
      throw new Error(`panel '${panel.title}': ${this.state.error.message}`);
    }
    const link = panel.links && <PanelChrome.TitleItem><Icon name="external-link-alt" /></PanelChrome.TitleItem>;
    return (
      <PanelChrome title={panel.title} description={panel.description} titleItems={link} {...size}
        padding={panel.type === 'table' ? 'none' : 'md'}>
        {(width, height) => <Content {...{ panel, steps, width, height }} />}
      </PanelChrome>
    );
  }
}

function Dashboard({ panels, steps, width: whole }) {
  const column = (whole - 2 * MARGIN + GAP) / COLUMNS;
  return panels.map((panel) => {
    const { x, y, w, h } = panel.gridPos;
    const [width, height] = [w * column - GAP, h * (UNIT + GAP) - GAP];
    const style = { position: 'absolute', left: MARGIN + x * column, top: MARGIN + y * (UNIT + GAP), width, height };
    return (
      <div key={panel.id} style={style}>
        {panel.type === 'row'
          ? <h5 style={{ lineHeight: `${UNIT}px` }}><Icon name="angle-down" /> {panel.title}</h5>
          : <Panel {...{ panel, steps, width, height }} />}
      </div>
    );
  });
}

// Until the page has not changed for a while: Grafana's components fetch icons, and measure before they draw.
const settled = (element) => new Promise((resolve) => {
  let timer;
  const wait = () => { clearTimeout(timer); timer = setTimeout(resolve, 1000); };
  new MutationObserver(wait).observe(element, { subtree: true, childList: true, attributes: true });
  wait();
});

// Draws the panels; the height of them all, in pixels. Rejects if one cannot be drawn.
window.draw = async (story) => {
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`)));
  const element = document.querySelector('#dashboard');
  await new Promise((resolve, onUncaughtError) => {
    createRoot(element, { onUncaughtError }).render(
      <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        <Dashboard {...story} />
      </ThemeContext.Provider>,
    );
    settled(element).then(resolve);
  });
  const bottoms = story.panels.map(({ gridPos: { y, h } }) => (y + h) * (UNIT + GAP) - GAP);
  return Math.max(...bottoms) + 2 * MARGIN;
};
