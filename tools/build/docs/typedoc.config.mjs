// typedoc's options: the reference of the modules that package.json exports, in docs/reference.
import { join } from 'node:path'
import { entryPoints, root } from '../../run.mjs'

const { index, ...others } = entryPoints

export default {
  // The main module comes last, because its function listen() would take the file name of fdpass/listen.
  entryPoints: [...Object.values(others), index].map((path) => join(root, `${path}.ts`)),
  sortEntryPoints: false,

  name: 'API reference',
  tsconfig: join(root, 'tsconfig.json'),
  readme: 'none',
  plugin: ['typedoc-plugin-markdown'],
  router: 'module',
  entryFileName: 'README.md',
  cleanOutputDir: true,
  sort: ['kind', 'source-order'],
  kindSortOrder: [
    'Function',
    'Class',
    'Interface',
    'TypeAlias',
    'Variable',
    'Constructor',
    'Property',
    'Accessor',
    'Method'
  ],
  groupOrder: ['Functions', 'Classes', 'Interfaces', 'Type Aliases', 'Variables'],
  excludeInternal: true,
  excludeExternals: true,
  disableSources: true,
  hidePageHeader: true,
  hideBreadcrumbs: true,
  useHTMLAnchors: true,
  anchorPrefix: 'api-',
  useCodeBlocks: true,
  parametersFormat: 'table',
  interfacePropertiesFormat: 'table',
  classPropertiesFormat: 'table',
  tableColumnSettings: {
    hideInherited: true
  },
  validation: {
    notExported: true,
    invalidLink: true,
    invalidPath: true,
    rewrittenLink: true,
    notDocumented: true,
    unusedMergeModuleWith: true
  },
  requiredToBeDocumented: [
    'Class',
    'Interface',
    'TypeAlias',
    'Variable',
    'Function',
    'Method',
    'Accessor',
    'Property',
    'Parameter'
  ],
  treatWarningsAsErrors: true,
  logLevel: 'Warn',
  out: '../../../docs/reference'
}
