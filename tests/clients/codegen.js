// graphql-codegen: types from the running API's introspection. SCHEMA is its URL.
export default {
  schema: process.env.SCHEMA,
  documents: 'queries.graphql',
  generates: {
    './generated/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false },
      config: { scalars: { UnixTime: 'number', DateTime: 'string', Decimal: 'string' }, strictScalars: true, useTypeImports: true },
    },
  },
};
